"""Whether the first axis of a batch may be time, and the second the samples'."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from probes.batch import map_leaves, take
from probes.compare import Comparison
from probes.experiment import Experiment
from probes.finding import ExperimentError
from probes.masking.trailing import trailing
from probes.subject import Batch

TRIED = 3  # samples of the second axis that keep their place in turn
PLACES = 8  # of the first axis, before which the order is changed


@dataclass(frozen=True)
class TimeFirst:
    """A batch whose first axis is read in order, be the second the samples' or not.

    sample, mixed: an entry of the second axis that depends on those beside it there, and how; no
    `mixed` where none does. refused: what the subject says to one entry less along that axis, if it
    refuses that.
    """

    sample: int
    mixed: Comparison | None
    refused: str | None


def time_first(experiment: Experiment) -> TimeFirst | None:
    """Found where all keys and outputs begin with the same two axes, and the first has an order.

    Then what stands later moves nothing that stands before. None where axes are declared, a key
    has one value a sample, rows are padded along the second, or that cannot be told; nor where
    the second axis mixes in order as well, so that either may be time.
    """
    tensors = [t for t in experiment.tensors.values() if t.ndim]
    if not experiment.samples_guessed or any(t.ndim < 2 for t in tensors):
        return None
    if experiment.masks or any(trailing(t) is not None for t in tensors):
        return None
    shapes = {tuple(t.shape[:2]) for t in (*tensors, *_placed(experiment))}
    if len(shapes) != 1 or min(shape := shapes.pop()) < 2 or not _placed(experiment):
        return None
    try:
        return _told(experiment, *shape) if _in_order(experiment, 0, shape[0]) else None
    except ExperimentError:
        return None


def carries_on(experiment: Experiment) -> bool:
    """Whether an output moves with the order of what stands before it on the first axis."""
    size = experiment.size
    try:
        return any(
            experiment.evaluated.against(
                experiment.evaluate(take(experiment.batch, order, experiment.layout)),
                _Between(experiment, 0, size, start),
            ).outputs
            for start in range(2, min(size, 2 + PLACES))
            for order in [[*range(1, start), 0, *range(start, size)]]
        )
    except ExperimentError:
        return False


def _placed(experiment: Experiment) -> list[Tensor]:
    return [experiment.outputs[name] for name in experiment.sample_axis]


def _told(experiment: Experiment, _: int, size: int) -> TimeFirst | None:
    for i in range(min(TRIED, size)):
        copies = _taken(experiment.batch, [i] * size)
        found = experiment.parted(
            f"what is beside {i} of the second axis",
            experiment.evaluate(copies),
            _Second(experiment, i),
        )
        if found.outputs and _in_order(experiment, 1, size):
            return None  # then either axis may be time
        if found.outputs:
            return TimeFirst(i, found, _refusal(experiment, size))
    return TimeFirst(0, None, None)


def _in_order(experiment: Experiment, axis: int, size: int) -> bool:
    """Whether the first places of the axis are as they were, be those after them others."""
    for kept in {1, size // 2}:
        order = [*range(kept), *(size - kept) * [0]]
        cut = take(experiment.batch, order, experiment.layout) if axis == 0 else None
        ran = experiment.evaluate(_taken(experiment.batch, order) if cut is None else cut)
        if any(name not in ran.outputs for name in experiment.sample_axis):
            return False
        look = _Between(experiment, axis, kept)
        if experiment.evaluated.against(ran, look).outputs:
            return False
    return True


def _taken(batch: Batch, order: list[int]) -> Batch:
    """The batch with these entries of the second axis."""

    def cut(_: str, leaf: object) -> object:
        if not isinstance(leaf, Tensor) or leaf.ndim < 2:
            return leaf
        return leaf.index_select(1, torch.tensor(order, device=leaf.device))

    return map_leaves(batch, cut)


def _refusal(experiment: Experiment, size: int) -> str | None:
    try:
        experiment.evaluate(_taken(experiment.batch, list(range(size - 1))))
    except ExperimentError as error:
        return str(error)
    return None


class _Between:
    """Looks at places of an axis from `start` to `stop`, of outputs that have it."""

    def __init__(self, experiment: Experiment, axis: int, stop: int, start: int = 0) -> None:
        self._experiment, self._axis, self._start = experiment, axis, start
        self._stop = stop

    def __call__(self, site: str, value: Tensor) -> Tensor | None:
        if site not in self._experiment.sample_axis:
            return None
        look = torch.zeros(value.shape, dtype=torch.bool, device=value.device)
        look.narrow(self._axis, self._start, self._stop - self._start).fill_(True)
        return look


class _Second:
    """Looks at one entry of the second axis, of outputs and of sites that begin with both."""

    def __init__(self, experiment: Experiment, place: int) -> None:
        self._shape = next(iter(_placed(experiment))).shape[:2]
        self._place = place

    def __call__(self, _: str, value: Tensor) -> Tensor | None:
        if value.shape[:2] != self._shape:
            return None
        look = torch.zeros(value.shape, dtype=torch.bool, device=value.device)
        look.select(1, self._place).fill_(True)
        return look
