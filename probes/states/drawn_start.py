"""Recurrent layers whose first state is drawn anew in every pass, in evaluation as well."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from probes.compare import NOISES, Difference
from probes.execution import Ran
from probes.experiment import LOSS, Experiment
from probes.nested import tensors_in
from probes.raised import source_here
from probes.reading.changed import changed
from probes.running import names_of, running
from probes.subject import Batch

FRESH = {"randn", "rand", "randn_like", "rand_like", "normal", "bernoulli"}
WRITES = {"normal_", "uniform_", "trunc_normal_", "bernoulli_", "exponential_", "cauchy_"}
SHAPED = {
    *("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like"),
    *("new_zeros", "new_ones", "new_empty", "new_full", "new_tensor"),
}
"""What takes the shape of a tensor, and none of its numbers."""
PICKS = {"__getitem__", "index_select", "gather"}
LAYERS = {"lstm", "gru", "rnn_tanh", "rnn_relu"}
CELLS = {f"{name}_cell" for name in LAYERS}
INTERPLAY = 1e-5  # of the loss: less is rounding


@dataclass(frozen=True, slots=True, eq=False)
class _Draw:
    """op, source: the function, and the line of the user's code that calls it."""

    op: str
    source: str | None


@dataclass(frozen=True, slots=True, eq=False)
class _Start:
    """A call of a recurrent layer from what was drawn. draws: their numbers.

    x: what it reads. rows: how many samples it has a state for.
    """

    site: str
    draws: frozenset[int]
    x: Tensor
    rows: int


@dataclass(frozen=True, slots=True)
class DrawnStart:
    """site: of the recurrent layer. moved: the output that moves most with another draw.

    labels: a key that the loss compares it with.
    """

    site: str
    op: str
    source: str | None
    moved: Difference
    labels: str


class _Draws(TorchFunctionMode):
    """While it is entered, follows what is drawn, and nothing else, up to recurrent layers.

    turned: numbers of draws whose entries stand in the reverse order, which is as good a draw.
    """

    def __init__(self, model: nn.Module, turned: frozenset[int] = frozenset()) -> None:
        super().__init__()
        self.draws: list[_Draw] = []
        self.starts: list[_Start] = []
        self._names, self._turned = names_of(model), turned
        self._known = WeakTensorKeyDictionary()  # made of nothing but draws and constants
        self._held: dict[tuple[int, torch.Size], Tensor] = {}  # since `Variable(x)` is another

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function's result; a draw may be turned around."""
        given = kwargs or {}
        name = getattr(func, "__name__", "")
        self._look(name, args)
        out = func(*args, **given)
        if name in FRESH or name in WRITES:
            self._draw(name, args, given, out)
        elif name == "__setitem__":
            self._write(args[0], args[2])
        elif isinstance(out, (Tensor, tuple, list)):
            self._follow(name, args, given, out)
            if name.endswith("_") and isinstance(out, Tensor) and out._base is not None:
                self._write(out._base, out)
        return out

    def _draw(self, name: str, args: Any, given: Any, out: Any) -> None:
        told = args[1:] if name in WRITES or name in SHAPED else args
        alone = all(self._of(each) is not None for each in tensors_in((told, given)))
        if not isinstance(out, Tensor) or not alone:
            return
        number = len(self.draws)
        self.draws.append(_Draw(name, source_here()))
        if number in self._turned:
            out.data.copy_(out.data.flip(list(range(out.ndim))))
        self._know(out, frozenset([number]))

    def _of(self, tensor: Tensor) -> frozenset[int] | None:
        """By which draws a tensor is known; None where more than those is in it."""
        if tensor.layout is not torch.strided:
            return None
        held = tensor if tensor in self._known else self._held.get(_place(tensor))
        found: frozenset[int] | None = None if held is None else self._known.get(held)
        return found

    def _know(self, tensor: Tensor, draws: frozenset[int] | None) -> None:
        """None: it is known no more, whatever it is called by."""
        held = self._held.get(_place(tensor)) if tensor.layout is torch.strided else None
        if draws is None:
            for each in (tensor, held):
                self._known.pop(each, None) if each is not None else None
            return
        self._known[tensor] = draws
        if draws and held is None and tensor.layout is torch.strided:
            self._held[_place(tensor)] = tensor

    def _follow(self, name: str, args: Any, given: Any, out: Any) -> None:
        told = [] if name in SHAPED else list(tensors_in((args, given)))
        if name in PICKS:
            told = told[:1]
        known = [self._of(each) for each in told]
        alone = not any(each is None for each in known)
        draws = frozenset[int]().union(*(each for each in known if each))
        for each in tensors_in(out):
            self._know(each, draws if alone else None)

    def _write(self, whole: Tensor, part: Any) -> None:
        """A part of a tensor was written, or of what that is a view of."""
        known = self._of(part) if isinstance(part, Tensor) else frozenset()
        for each in (whole, whole._base):
            own = None if each is None else self._of(each)
            if each is not None and own is not None:
                self._know(each, None if known is None else own | known)

    def _look(self, name: str, args: Sequence[Any]) -> None:
        """What a recurrent layer of torch's own starts from."""
        if name not in LAYERS and name not in CELLS:
            return
        at = 1
        if name in LAYERS:  # before its weights, after what it reads and how long that is
            at = next((i - 1 for i, each in enumerate(args) if isinstance(each, list)), 1)
        states = list(tensors_in((args[at],)))
        draws = [d for d in (self._of(each) for each in states) if d]
        site = running(self._names)
        if draws and site is not None and len(states) <= 2:
            x, rows = args[0].detach().clone(), states[0].shape[-2] if states[0].ndim > 1 else 1
            self.starts.append(_Start(site, frozenset[int]().union(*draws), x, rows))


def _place(tensor: Tensor) -> tuple[int, torch.Size]:
    return tensor.data_ptr(), tensor.shape


def drawn_starts(experiment: Experiment) -> Iterator[DrawnStart]:
    """At most one for each line that draws a state. Raises ExperimentError.

    With the draw turned around, an output moves, and so does what other labels come to in the loss;
    what moves hangs on the batch, too. Nothing where a layer reads the same from several draws, as
    is done to see how outputs spread, or starts from something else while it trains.
    """
    first, training = (_Draws(experiment.subject.model) for _ in range(2))
    before = experiment.evaluate(experiment.batch, under=[first])
    if not first.starts or _draws_again(experiment, first.starts):
        return
    experiment.trained.run(experiment.batch, under=[training])
    both = {each.site for each in training.starts}
    lines: dict[str | None, list[_Start]] = {}
    for start in (each for each in first.starts if each.site in both):
        lines.setdefault(first.draws[min(start.draws)].source, []).append(start)
    for source, starts in lines.items():
        draws = frozenset[int]().union(*(each.draws for each in starts))
        after = _turned(experiment, experiment.batch, draws)
        found = [e for e in experiment.evaluated.against(after).outputs if e.site != LOSS]
        if not found or not _reads(experiment, [each.site for each in found]):
            continue
        labels = _compared(experiment, before, after, draws)
        if labels is not None:
            moved = max(found, key=lambda each: each.relative)
            op = first.draws[min(draws)].op
            yield DrawnStart(starts[0].site, op, source, moved, labels)


def _draws_again(experiment: Experiment, starts: Sequence[_Start]) -> bool:
    """Whether a layer reads the very same more often than once in the loss, once to predict.

    In calls one after the other, or in rows of one call.
    """
    most = 1 + (experiment.subject.predict is not None)
    return any(_is_repeated(each) for each in starts) or any(
        sum(one.site == two.site and _same(one.x, two.x) for two in starts) > most for one in starts
    )


def _is_repeated(start: _Start) -> bool:
    """Whether but half of the samples that it reads, or fewer, are different."""
    x, rows = start.x, start.rows
    axes = [axis for axis in range(x.ndim - 1) if x.shape[axis] == rows > 1]
    return any(rows >= 2 * x.unique(dim=axis).shape[axis] for axis in axes)


def _same(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and one.dtype == two.dtype and torch.equal(one, two)


def _turned(experiment: Experiment, batch: Batch, draws: frozenset[int]) -> Ran:
    return experiment.evaluate(batch, under=[_Draws(experiment.subject.model, draws)])


def _reads(experiment: Experiment, outputs: Sequence[str]) -> bool:
    """Whether any of the outputs moves with a key of the batch that is no label."""
    baseline = experiment.evaluated
    for key in experiment.tensors:
        other = None if key in experiment.targets else changed(experiment, key)
        if other is None:
            continue
        found = baseline.against(experiment.evaluate(other)).outputs
        if any(each.site in outputs for each in found):
            return True
    return False


def _compared(experiment: Experiment, before: Ran, after: Ran, draws: frozenset[int]) -> str | None:
    """Labels of which other values come to something else with another draw; None without any."""
    for key in experiment.targets:
        other = changed(experiment, key)
        if other is None:
            continue
        pairs = (before, after, experiment.evaluate(other), _turned(experiment, other, draws))
        losses = [each.outputs.get(LOSS) for each in pairs]
        if any(each is None or each.numel() != 1 for each in losses):
            return None
        one, two, three, four = (float(each) for each in losses if each is not None)
        limit = INTERPLAY * max(abs(each) for each in (one, two, three, four))
        limit = max(limit, NOISES * experiment.evaluated.noise)
        if abs((one - two) - (three - four)) > limit:
            return key
    return None
