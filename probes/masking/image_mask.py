"""Masks of rows and columns that an attention applies in the other order than its places have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.execution import Ran
from probes.experiment import Experiment, with_leaf
from probes.finding import ExperimentError
from probes.softmaxes.attended import Attended, attended
from probes.vary import vary


@dataclass(frozen=True)
class Crossed:
    """A mask that was flattened by columns, at an attention whose places go by rows.

    cells: (sample, row, column) true where another cell is hidden than the mask says.
    """

    mask: str
    site: str
    cells: Tensor


def image_masks(experiment: Experiment) -> Iterator[tuple[str, Tensor]]:
    """Keys of two values over (sample, row, column), not all alike, and the same turned round."""
    for key, tensor in experiment.tensors.items():
        if tensor.ndim == 3 and len(tensor) == experiment.size and min(tensor.shape[1:]) > 1:
            values = tensor != 0
            if bool(((tensor == 0) | (tensor == 1)).all()) and bool(values.any()):
                yield key, values


def crossed(experiment: Experiment) -> Iterator[Crossed]:
    """Each such mask, at the first attention that blocks just the cells of the mask transposed."""
    for key, values in image_masks(experiment):
        for one in attended(experiment) if not bool(values.all()) else ():
            hides = _transposed(values, one)
            if hides is not None and _goes_by_rows(experiment, values):
                back = hides.view(len(values), values.shape[2], values.shape[1]).transpose(1, 2)
                straight = hides.view(values.shape)
                yield Crossed(key, one.site, straight != back)
                break


def _transposed(values: Tensor, one: Attended) -> Tensor | None:
    """(sample, cell) what is never seen, where that is the mask by columns and not by rows."""
    count = values[0].numel()
    if one.blocked.shape[-1] != count or len(one.blocked) % len(values):
        return None
    never = one.blocked.reshape(len(values), -1, count).all(1)
    for hides in (~values, values):
        straight, across = hides.flatten(1), hides.transpose(1, 2).flatten(1)
        if torch.equal(never, across) and not torch.equal(never, straight):
            return never
    return None


def _goes_by_rows(experiment: Experiment, values: Tensor) -> bool:
    """Whether a pixel far off the diagonal moves the place most that it has by rows."""
    rows, columns = values.shape[1:]
    row, column = 0, columns - 1
    for key, tensor in experiment.tensors.items():
        where = torch.zeros(tensor.shape, dtype=torch.bool, device=tensor.device)
        if tensor.is_floating_point() and tensor.ndim == 4 and tensor.shape[2:] == values.shape[1:]:
            where[:, :, row, column] = True
        elif tensor.ndim == 4 and tensor.shape[:3] == values.shape:
            where[:, row, column] = True
        other = vary(tensor, where) if bool(where.any()) else None
        if other is None:
            continue
        try:
            after = experiment.evaluate(with_leaf(experiment.batch, key, other))
        except ExperimentError:
            continue
        lands = _lands(experiment, after, len(values), rows * columns)
        if lands is not None:
            there = divmod(lands, columns)  # or beside it, after a convolution
            return abs(there[0] - row) <= 1 and abs(there[1] - column) <= 1
    return False


def _lands(experiment: Experiment, after: Ran, size: int, count: int) -> int | None:
    """The place that moves most at the first site of (sample, cell, feature)."""
    for one, two in zip(experiment.evaluated.ran.events, after.events, strict=False):
        before, value = one.value, two.value
        if before is None or value is None or before.shape != value.shape or before.ndim != 3:
            continue
        if not before.is_floating_point():
            continue
        moved = (value - before).abs().sum(-1)
        if tuple(before.shape[:2]) == (count, size):
            moved = moved.T
        if tuple(moved.shape) == (size, count) and bool(moved.any()):
            return int(moved.sum(0).argmax())
    return None
