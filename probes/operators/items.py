"""How many items a sample of the batch brings, such as tokens: along which axes they are told."""

from __future__ import annotations

from probes.experiment import Experiment


def item_lengths(experiment: Experiment) -> set[int]:
    """Lengths of axes of the batch, after that of samples, along which items stand.

    Every axis of ids and of masks; of numbers all but the last of three or more, which is of
    features. What is to be learned may hold one number a class, and does not count.
    """
    found = set[int]()
    for key, tensor in experiment.tensors.items():
        numbers = tensor.is_floating_point()
        if numbers and key in experiment.targets:
            continue
        axes = tensor.shape[1:-1] if numbers and tensor.ndim > 2 else tensor.shape[1:]
        found.update(length for length in axes if length > 1)
    return found


def items_at(experiment: Experiment, axis: int, length: int) -> str | None:
    """A key whose items stand along this very axis, so many of them; None without one."""
    for key, tensor in experiment.tensors.items():
        numbers = tensor.is_floating_point()
        last = tensor.ndim - 1 if numbers and tensor.ndim > 2 else tensor.ndim
        if 0 < axis < last and tensor.shape[axis] == length > 1:
            return key
    return None
