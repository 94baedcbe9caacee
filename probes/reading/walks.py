"""Which places of a sequence move with which of another: along with it, or the other way round."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

import torch
from torch import Tensor

from probes.batch import sample_axes
from probes.experiment import Experiment, with_leaf
from probes.finding import ExperimentError
from probes.subject import Batch
from probes.vary import vary

LEAST = 6  # places of a sequence
TRIED = 5  # places that are changed, one after the other
SMALL = 1e-5  # of the largest number: less does not count as moved
Changes = Mapping[int, Tensor]  # place that was changed -> (try, sample, place, number) by how much


def ways(changes: Changes) -> set[int]:
    """1 where what moves walks along with the place that is changed, -1 where the other way."""
    found = set()
    for rows in zip(*(each.unbind(1) for each in changes.values()), strict=True):
        for ends in zip(*(_ends(each) for each in rows), strict=True):
            known = [(s, end) for s, end in zip(changes, ends, strict=True) if end is not None]
            steps = {(two - one) / (t - s) for (s, one), (t, two) in pairwise(known)}
            if len(known) >= 3 and len(steps) == 1 and abs(step := steps.pop()) == 1:
                found.add(int(step))
    return found


def _ends(moved: Tensor) -> tuple[int | None, int | None, int | None]:
    """The first place that moved, the last, and the one where most changes from place to place."""
    felt = moved.abs().sum((0, 2)).nonzero().flatten()
    if not len(felt):
        return None, None, None
    return int(felt[0]), int(felt[-1]), int(moved[0].diff(dim=0).abs().sum(1).argmax())


def sequences(experiment: Experiment, floats: bool) -> Iterator[str]:
    """Keys of (sample, place) or (sample, place, feature), or with the first two exchanged."""
    masks = {each.key for each in experiment.layout.masks}
    axes = sample_axes(experiment.batch, experiment.layout)
    for key, tensor in experiment.tensors.items():
        fits = key not in masks and tensor.ndim in (2, 3) and axes.get(key) in (0, 1)
        long = fits and tensor.shape[1 - axes[key]] >= LEAST and tensor.dtype is not torch.bool
        if long and (tensor.is_floating_point() or not floats):
            yield key


def by_place(value: Tensor, size: int) -> Tensor | None:
    """A value as (sample, place, number); None where it has not these axes."""
    axis = next((i for i, n in enumerate(value.shape[:2]) if n == size), None)
    if axis is None or value.ndim not in (2, 3) or value.shape[1 - axis] < LEAST:
        return None
    rows = value.detach().double().movedim(axis, 0).nan_to_num().cpu()
    return rows if rows.ndim == 3 else rows[..., None]


def places(experiment: Experiment, key: str) -> list[int]:
    """Some places of the key, spread evenly, but for its first and its last."""
    axis = 1 - sample_axes(experiment.batch, experiment.layout)[key]
    last = experiment.tensors[key].shape[axis] - 2
    return sorted({int(each) for each in torch.linspace(1, last, TRIED, device="cpu").tolist()})


def changed(experiment: Experiment, key: str, place: int, row: int, far: float = 0) -> Batch:
    """The batch with the key changed at that place of one sample. Raises ExperimentError."""
    tensor = experiment.tensors[key]
    axis = sample_axes(experiment.batch, experiment.layout)[key]
    where = torch.zeros(tensor.shape, dtype=torch.bool, device=tensor.device)
    where.movedim(axis, 0)[row, place] = True
    other = vary(tensor, where)
    if far and tensor.is_floating_point():
        other = torch.where(where, tensor + far * (tensor.std() + 1e-3), tensor)
    if other is None:
        raise ExperimentError(f"`{key}` holds but one value")
    return with_leaf(experiment.batch, key, other)


def moved(one: Tensor, two: Tensor, size: int) -> Tensor:
    """(sample, place, number) by how much they differ, zero where that is rounding."""
    change = by_place(two - one, size)
    assert change is not None
    least = SMALL * float(one.detach().abs().nan_to_num().max())
    return change * (change.abs() > least)
