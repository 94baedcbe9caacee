"""Whether what a model holds has an entry for each sample."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from probes.batch import take
from probes.experiment import Experiment
from probes.finding import ExperimentError
from probes.states.attributes import Leaves
from probes.subject import Batch


def has_entries(experiment: Experiment, held: Callable[[Batch], Leaves], batch: Batch) -> bool:
    """Whether it holds an entry a sample: an axis that shrinks with the batch, or follows it.

    held: what is held after a batch. Of one sample: whether it holds numbers.
    """
    size, whole = experiment.size, held(batch)
    if size < 2:
        return any(is_content(leaf) for _, leaf in whole)
    for order in (range(size - 1), [*range(size - 1), 0], [*range(size - 1), 1]):
        try:
            other = held(take(batch, order, experiment.layout))
        except ExperimentError:
            continue
        if len(other) == len(whole) and any(
            _follows(one, two, size) for (_, one), (_, two) in zip(whole, other, strict=True)
        ):
            return True
    return False


def is_content(leaf: object) -> bool:
    """Whether it is a tensor of several floating numbers."""
    return isinstance(leaf, Tensor) and leaf.numel() > 1 and leaf.is_floating_point()


def _follows(one: object, two: object, size: int) -> bool:
    """Whether one axis of `size` lost an entry, or changed in its last entry alone."""
    if not isinstance(one, Tensor) or not isinstance(two, Tensor) or one.ndim != two.ndim:
        return False
    if one.shape != two.shape:
        pairs = [(a, b) for a, b in zip(one.shape, two.shape, strict=True) if a != b]
        return pairs == [(size, size - 1)]
    moved = one.double() != two.double()
    return bool(moved.any()) and any(
        n == size and not bool(moved.narrow(axis, 0, n - 1).any())
        for axis, n in enumerate(one.shape)
    )
