"""An update that is not torch's own, kept so that it can be run again where it gives a NaN."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import _disable_current_modes

from nan_watch.case.symptom import Symptom
from nan_watch.flags import Doubles
from nan_watch.inquest.copies import Copied, as_sick, copied, one_process, starting
from nan_watch.inquest.hold import Inquest, Repeatable
from probes.finding import Evidence, Finding
from probes.replay import RandomState, Snapshot, is_finite, replay

TORCHS = ("defaults", "_optimizer_", "_hook_", "_zero_grad_profile", "_patch_", "_warned_")
"""How the attributes begin that torch gives every optimizer and that no step changes."""
LARGE = 2**22  # numbers in the parameters of an update that is kept
LARGEST = 2**27  # bytes of all that is copied of it
FIRST = 2  # updates of the run that are kept
TINY, HUGE = 1e-18, 1e18  # norms whose square is next to nothing, or to infinity
CONTAINERS = (dict, list, tuple, defaultdict, OrderedDict, deque)
WITHIN = "update"


class Leaf(int):
    """The place of a copy, where a tensor stood."""


@dataclass(frozen=True, slots=True)
class Update:
    """What a step of the optimizer started from.

    parameters: with the places of their copies and of their gradients'. attributes: of the
    optimizer, its groups and state among them, with a Leaf for each tensor. copied: all of them.
    """

    optimizer: Optimizer
    parameters: Sequence[tuple[Tensor, Leaf, Leaf | None]]
    attributes: Mapping[str, Any]
    copied: Copied
    random: RandomState

    @property
    def written(self) -> list[Tensor]:
        """Each parameter."""
        return [parameter for parameter, *_ in self.parameters]

    @property
    def before(self) -> list[tuple[Tensor, Tensor]]:
        """Each parameter with what it held."""
        copies = self.copied.each()
        return [(parameter, copies[at]) for parameter, at, _ in self.parameters]

    def run(self) -> Tensor:
        """The step has been taken again; returns the first parameter that it poisoned, or zero."""
        with self._as_it_was():
            step = type(self.optimizer).step
            getattr(step, "__wrapped__", step)(self.optimizer)  # without the hooks upon it
        with _disable_current_modes():
            odd = next((each for each in self.written if not is_finite(each)), None)
            return torch.zeros(()) if odd is None else odd.detach()

    @contextmanager
    def _as_it_was(self) -> Iterator[None]:
        """Inside, gradients and the optimizer's attributes are as they were."""
        own, grads = vars(self.optimizer), [p.grad for p, *_ in self.parameters]
        now = dict(own)
        with _disable_current_modes():
            copies = [each.clone() for each in self.copied.each()]
            own.update({name: _filled(each, copies) for name, each in self.attributes.items()})
            for parameter, _, at in self.parameters:
                parameter.grad = None if at is None else copies[at]
        try:
            yield
        finally:
            own.clear()
            own.update(now)
            for (parameter, *_), grad in zip(self.parameters, grads, strict=True):
                parameter.grad = grad


class OwnUpdates:
    """Keeps an update of an optimizer whose step is not torch's own, where it may go wrong.

    Such are the first two, whose state begins at zero, and each in which a parameter's gradient
    is for the first time zero, next to it, or too large to be squared. All the others cost nothing.
    """

    def __init__(self, model: nn.Module) -> None:
        self._models = {id(parameter) for parameter in model.parameters()}
        self._taken = 0
        self._odd: set[int] = set()  # places of parameters whose gradient has been so
        self.newest: Update | None = None

    def before(self, optimizer: Optimizer | None, grads: Doubles) -> None:
        """The step that it is about to take can be taken again, where it is kept.

        grads: norms of the gradients, minus one where there is none.
        """
        self.newest = None
        if optimizer is None or not is_own(optimizer):
            return
        if not self._is_risky(grads) or not one_process():
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        few = sum(map(Tensor.numel, parameters)) <= LARGE
        if few and {id(parameter) for parameter in parameters} <= self._models:
            self.newest = self._kept(optimizer, parameters)

    def _is_risky(self, grads: Doubles) -> bool:
        self._taken += 1
        zero = (grads >= 0) & (grads < TINY)
        odd = set(np.flatnonzero(zero | (grads > HUGE)).tolist())
        new = odd - self._odd
        self._odd |= odd
        return bool(new) or self._taken <= FIRST

    def _kept(self, optimizer: Optimizer, parameters: Sequence[Tensor]) -> Update | None:
        held, sources = {id(parameter) for parameter in parameters}, list[Tensor]()

        def leaf(tensor: Tensor) -> Leaf:
            sources.append(tensor)
            return Leaf(len(sources) - 1)

        def kept(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value if id(value) in held else leaf(value)
            return rebuilt(value, kept)

        of = [(p, leaf(p), None if p.grad is None else leaf(p.grad)) for p in parameters]
        its = {k: kept(v) for k, v in vars(optimizer).items() if not k.startswith(TORCHS)}
        copies = copied(sources, LARGEST)
        if copies is None:
            return None
        return Update(optimizer, of, its, copies, RandomState.take(host=False))


def is_own(optimizer: Optimizer) -> bool:
    """Whether its step is not one of torch's."""
    return not type(optimizer).step.__module__.startswith("torch.optim.")


def by_own_update(
    update: Update | None, inquest: Inquest, symptom: Symptom, finding: Finding
) -> Finding | None:
    """The finding as the update tells it; None where it was not this update's doing."""
    if update is None or not all(is_finite(copy) for _, copy in update.before):
        return None
    snapshot = replace(Snapshot.take(inquest.model), random=update.random)
    start = starting(inquest.model, update.before, snapshot)
    now, again = [each.detach().clone() for each in update.written], list[Tensor]()

    def run() -> Tensor:
        first = update.run()
        again[:] = [each.detach().clone() for each in update.written]
        return first

    try:
        replay(run, inquest.model, start)
    except Exception:  # what it needs is gone
        return None
    if not as_sick(again, now):
        return None
    step = Repeatable(update.run, start, returns=symptom.state[0].name, packs=False, within=WITHIN)
    told = inquest.hold(symptom.of_its_update(), finding, step)
    if inquest.found is None or told.op is None or told.code == finding.code:
        return None
    same = all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(again, now, strict=True))
    said = Evidence(
        f"the step of {type(update.optimizer).__name__}, run again from what it started from",
        "the parameters as they are" + (", to the bit" if same else ", where they are not finite"),
    )
    return replace(told, evidence=(*told.evidence, said))


def rebuilt(value: Any, of: Callable[[Any], Any]) -> Any:
    """A container with what `of` makes of each that it holds; what is none is itself."""
    kind = type(value)
    if kind not in CONTAINERS:
        return value
    if kind is defaultdict:
        return defaultdict(value.default_factory, {key: of(each) for key, each in value.items()})
    if kind in (dict, OrderedDict):
        return kind([(key, of(each)) for key, each in value.items()])
    return kind([of(each) for each in value])


def _filled(value: Any, copies: Sequence[Tensor]) -> Any:
    """The value with the copies where leaves stand."""
    if isinstance(value, Leaf):
        return copies[value]
    return rebuilt(value, lambda each: _filled(each, copies))
