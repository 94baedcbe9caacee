"""Numbers of the samples that fit another axis, since the batch happens to be as large as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from probes.batch import map_leaves, take
from probes.experiment import Experiment, copied
from probes.nested import tensors_in
from probes.raised import source_here
from probes.scoring.across import holds_no_samples, holds_pairs
from probes.subject import Batch
from probes.undisturbed import undisturbed

Shape = tuple[int, ...]
MOST = 200  # calls that are kept
FEW = 3  # values of a key that may say which are joined


@dataclass(frozen=True, slots=True)
class Fit:
    """A call of two tensors, of the whole batch; with a sample less it raises.

    numbers, other: shapes, where the samples of the first lie along another axis of the other.
    fewer: the same two with a sample less.
    """

    op: str
    source: str | None
    numbers: Shape
    other: Shape
    fewer: tuple[Shape, Shape]


@dataclass(frozen=True, slots=True)
class _Call:
    op: str
    source: str | None
    given: tuple[Shape, ...]


class _Broadcasts(TorchFunctionMode):
    """While it is entered, keeps the calls of two shapes, and the one that broadcasting stops.

    size: only calls that are given an axis of so many entries are kept; 0 keeps none.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.found: list[_Call] = []
        self.stopped: _Call | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function's result; what it raises is noted."""
        given = tuple(tuple(each.shape) for each in tensors_in((*args, *(kwargs or {}).values())))
        pair, name = len(given) == 2 and given[0] != given[1], getattr(func, "__name__", "")
        if pair and self.size and len(self.found) < MOST and any(self.size in s for s in given):
            self.found.append(_Call(name, source_here(), given))
        try:
            return func(*args, **(kwargs or {}))
        except RuntimeError:
            if pair and self.stopped is None and not _fits(given):
                self.stopped = _Call(name, source_here(), given)
            raise


def happens_to_fit(experiment: Experiment) -> Fit | None:
    """The call at which the loss of the whole batch runs through, and that of a sample less stops.

    There a tensor whose one axis of more than one entry is shorter by a sample is laid against an
    axis that is not, while the other's own samples stand on another. Keys that may be no samples,
    as a weight a class of as many classes, are left whole: it stops without them, too. Where keys
    hold pairs of samples, as the edges of a graph do, it stops whatever the code does; rows of as
    many features as there are samples are none where the loss minds the order of the features.
    """
    size = experiment.size
    if size < 3 or experiment.uncut is not None:  # with fewer samples it runs
        return None
    fewer = take(experiment.batch, range(size - 1), experiment.layout)
    stopped = _run(experiment, fewer, 0).stopped
    if stopped is None or _laid(stopped.given, size) is None:
        return None
    if _run(experiment, _with_whole(experiment, fewer), 0).stopped != stopped:
        return None
    numbers, other = _laid(stopped.given, size) or ((), ())
    for call in _run(experiment, experiment.batch, size).found:
        same = (call.op, call.source) == (stopped.op, stopped.source)
        if same and call.given in ((numbers, other), (other, numbers)):
            if holds_pairs(experiment) or holds_no_samples(experiment):
                return None
            pair = stopped.given if call.given[0] == numbers else stopped.given[::-1]
            return Fit(call.op.strip("_"), call.source, numbers, other, (pair[0], pair[1]))
    return None


def _run(experiment: Experiment, batch: Batch, size: int) -> _Broadcasts:
    """What the loss did in the subject's own modes, until it raised, if it did."""
    subject, mode = experiment.subject, _Broadcasts(size)
    try:
        with undisturbed(subject.model, training=True), torch.no_grad(), mode:
            subject.loss(subject.model, copied(batch))
    except Exception:  # such as what is looked for
        pass
    return mode


def _with_whole(experiment: Experiment, fewer: Batch) -> Batch:
    """With all that is there of keys of one number an entry, and of what may be pairs."""
    whole = {
        key: tensor
        for key, tensor in experiment.tensors.items()
        if (tensor.ndim == 1 and tensor.is_floating_point()) or _may_be_pairs(experiment, tensor)
    }
    return map_leaves(fewer, lambda path, leaf: whole.get(path, leaf))


def _may_be_pairs(experiment: Experiment, tensor: Tensor) -> bool:
    """Whether it has as many rows as columns, and one value at all (i, i), or (i, j) as at (j, i).

    Or hardly any values, as of what is joined or is not.
    """
    if tuple(tensor.shape) != (experiment.size, experiment.size):
        return False
    alike = bool(torch.equal(tensor, tensor.T)) or len(tensor.diagonal().unique()) == 1
    return alike or not tensor.is_floating_point() or len(tensor.unique()) <= FEW


def _laid(given: Sequence[Shape], size: int) -> tuple[Shape, Shape] | None:
    """The two shapes of the whole batch; None where they are not laid as is looked for."""
    for few, more in (given, given[::-1]):
        axes = [i for i, n in enumerate(few) if n != 1]
        if len(axes) != 1 or few[axes[0]] != size - 1 or not more or more[0] != size - 1:
            continue
        behind = len(few) - axes[0]
        if behind < len(more) and more[-behind] == size and size - 1 not in more[1:]:
            numbers = tuple(size if i == axes[0] else n for i, n in enumerate(few))
            return numbers, (size, *more[1:])
    return None


def _fits(given: Sequence[Shape]) -> bool:
    try:
        torch.broadcast_shapes(*given)
    except RuntimeError:
        return False
    return True
