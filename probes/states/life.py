"""A copy of the subject's model from its first day on: what it is given, it may remember."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from probes.batch import leaves, sample_count, take
from probes.bus import Bus, Kind, See
from probes.compare import NOISES, gap, scale
from probes.copying import copy_of
from probes.experiment import LOSS, Experiment, attempted, copied
from probes.finding import ExperimentError
from probes.loop import Loop
from probes.modules import every_module
from probes.replay import RandomState
from probes.seeding import kept_random_state
from probes.states.attributes import Attribute, Leaves, attributes, contents, put
from probes.states.recurrence import Calls, Recurrent
from probes.stepping.one_step import keep_strangers, made, take_step
from probes.subject import Batch

Outputs = Mapping[str, Tensor]
LAST_BITS = 4  # that a sum may differ by where memory lies otherwise
OTHERS = 3  # batches that come next, among which one of the same keys is looked for


class Life:
    """One instance of the model; every act begins with the same random state and gives it back.

    The subject's own model is not touched. Raises ExperimentError where it cannot be copied.
    """

    def __init__(self, experiment: Experiment) -> None:
        with attempted("a copy of `Subject.model`"):
            model = copy_of(experiment.subject.model)
        self.subject = replace(experiment.subject, model=model)
        self.experiment = replace(experiment, subject=self.subject, arrays={})
        self._own = {module: module.training for module in model.modules()}
        self._loop: Loop | None = None

    @property
    def contents(self) -> dict[Attribute, Leaves]:
        """What its attributes hold now."""
        return contents(self.subject.model)

    def evaluate(self, batch: Batch) -> Outputs:
        """What it gives in evaluation mode: outputs by name, and the loss."""
        with self._act() as own:
            found = dict(self.experiment.once(batch))
            return _kept(own | found)

    def train(self, batch: Batch) -> Outputs:
        """The same in the model's own mode, with a backward pass; no parameter moves."""
        model = self.subject.model
        with self._act() as own:
            with attempted("`Subject.loss`"):
                loss = self.subject.loss(model, copied(batch))
            if loss.requires_grad:
                with attempted("the backward pass of `Subject.loss`"):
                    loss.backward()
            model.zero_grad(set_to_none=True)
            return _kept(own | {LOSS: loss})

    def recurrent(self, batch: Batch) -> list[Recurrent]:
        """The calls of recurrent modules in the loss, in the model's own mode, with their graphs.

        Those of `predict` where the loss is out of use.
        """
        try:
            return self._recurrent("Subject.loss", self.subject.loss, batch)
        except ExperimentError:
            if self.subject.train_step is None or self.subject.predict is None:
                raise
        return self.predicting(batch)

    def evaluating(self, batch: Batch) -> list[Recurrent]:
        """The same of the loss, in evaluation mode; of `predict` where the loss is out of use."""
        try:
            with self._act():
                self.subject.model.eval()
                return self._recurrent("Subject.loss", self.subject.loss, batch, own=False)
        except ExperimentError:
            if self.subject.predict is None:
                raise
        return self.predicting(batch)

    def predicting(self, batch: Batch) -> list[Recurrent]:
        """The same of `predict`, in evaluation mode; none where there is no `predict`."""
        if self.subject.predict is None:
            return []
        with self._act():
            self.subject.model.eval()
            return self._recurrent("Subject.predict", self.subject.predict, batch, own=False)

    def _recurrent(
        self,
        name: str,
        function: Callable[[nn.Module, Batch], Any],
        batch: Batch,
        own: bool = True,
    ) -> list[Recurrent]:
        model, calls = self.subject.model, Calls(self.subject.model)
        with self._act() if own else nullcontext(), calls.bus, attempted(f"`{name}`"):
            function(model, copied(batch))
        return calls.found

    def step(self, batch: Batch) -> None:
        """One call of the training step, always with the same optimizer."""
        with self._act(), ExitStack() as outside:
            if self._loop is None:
                self._loop = made(self.subject)
            keep_strangers(self.subject, outside, self._loop)
            take_step(self._loop, batch)

    def forget(self, attribute: Attribute, fresh: Life) -> None:
        """The attribute holds what it held on the first day of another life, untouched so far."""
        value = dict(attributes(fresh.subject.model)).get(attribute)
        put(self.subject.model, attribute, copy.deepcopy(value))

    def adopt(self, other: Life) -> None:
        """Parameters and buffers are the other's; attributes stay as they are."""
        with attempted("`load_state_dict` of the model's own state"):
            self.subject.model.load_state_dict(copy.deepcopy(other.subject.model.state_dict()))

    @contextmanager
    def _act(self) -> Iterator[dict[str, Tensor]]:
        """Holds what the model itself gave last, by name."""
        before, given = RandomState.take(), _Given(self.subject.model)
        for module, training in self._own.items():
            module.training = training
        try:
            with warnings.catch_warnings(), torch.enable_grad(), given.bus:
                warnings.simplefilter("ignore")
                yield given.found
        finally:
            before.restore()


class _Given:
    """Keeps what the model itself gave."""

    def __init__(self, model: nn.Module) -> None:
        self.found: dict[str, Tensor] = {}
        self.sees: Mapping[Kind, See] = {Kind.OUTPUT: self.see}
        self.root = next(every_module(model))[0]
        self.bus = Bus(model, [self], whole=True)

    def see(self, number: int, tensor: Tensor) -> None:
        """The last call's are kept."""
        name = self.bus.sites[number].name
        if name == self.root or name.startswith((f"{self.root}[", f"{self.root}.")):
            self.found[name] = tensor.detach().clone()


def _kept(found: Mapping[str, Tensor]) -> Outputs:
    return {name: value.detach().clone() for name, value in found.items()}


def differs(one: Outputs, two: Outputs, noise: float = 0.0) -> tuple[str, float, float] | None:
    """The output that differs most, by which share of its size, and the limit; None if none does.

    Equal kernels on equal shapes repeat to the bit or nearly so, hence the low limit. An output of
    another shape, or that is missing, differs wholly.
    """
    worst: tuple[str, float, float] | None = None
    for name, before in one.items():
        after = two.get(name)
        largest = float("inf") if after is None else gap(before, after)[0]
        size = scale(before)
        limit = max(NOISES * noise, _rounding(before) * size)
        share = largest / size if size else float("inf")
        if largest > limit and (worst is None or share > worst[1]):
            worst = name, share, limit / size if size else limit
    return worst


def _rounding(value: Tensor) -> float:
    return LAST_BITS * torch.finfo(value.dtype).eps if value.is_floating_point() else 0.0


def noise_of(one: Outputs, two: Outputs) -> float:
    """The largest difference of two lives that should be one."""
    return max(
        (gap(value, two[name])[0] for name, value in one.items() if name in two), default=0.0
    )


def other_batches(experiment: Experiment) -> Iterator[Batch]:
    """Batches of as many samples and other content: what comes next, or copies of one sample."""
    size, keys = experiment.size, leaves(experiment.batch).keys()
    with kept_random_state():  # a loader draws from it
        following = list(islice(experiment.subject.batches, 1, 1 + OTHERS))
    for batch in following:
        count = sample_count(batch, experiment.layout) or 0
        if leaves(batch).keys() == keys and count >= size:
            whole = count == size or not size
            yield batch if whole else take(batch, range(size), experiment.layout)
    for row in {0, size - 1} if size > 1 else ():
        yield take(experiment.batch, [row] * size, experiment.layout)


def later_goes_on(experiment: Experiment, act: Callable[[Life, Batch], Outputs]) -> bool:
    """Whether a batch that comes later gives something else after this one than alone.

    The first batch may say that its sequences begin with it, so that it alone starts afresh.
    """
    for other in other_batches(experiment):
        past = Life(experiment)
        act(past, experiment.batch)
        if differs(act(Life(experiment), other), act(past, other)) is not None:
            return True
    return False
