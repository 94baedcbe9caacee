"""Inputs that are repeated as a whole beside labels that are repeated one by one, or reverse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.reading.rows import is_read, looked

MOST = 8  # times that a batch is repeated
LEAST = 3  # different inputs
CHANCE = 0.01  # that labels are alike, two by two, without being repeated


@dataclass(frozen=True)
class Repeated:
    """A batch whose inputs are repeated in another order than its labels.

    keys: the inputs that are read. label: the key of labels. times: how often each is repeated.
    whole: whether the inputs are repeated as a whole, and the labels one by one. rows: two rows of
    the same input and with different labels. wrong: rows whose label is not that of their input
    as the labels would have to be repeated.
    """

    keys: tuple[str, ...]
    label: str
    times: int
    whole: bool
    rows: tuple[int, int]
    wrong: int


def repeated_apart(experiment: Experiment) -> Repeated | None:
    """The first batch in which all inputs are repeated in one order and labels in the other."""
    for batch in looked(experiment):
        for label in experiment.targets:
            found = _of(experiment, batch, label)
            if found is not None:
                return found
    return None


def _of(experiment: Experiment, batch: Mapping[str, Tensor], label: str) -> Repeated | None:
    values = batch.get(label)
    count = 0 if values is None or not values.ndim else len(values)
    for times in range(2, min(MOST, count // LEAST) + 1):
        assert values is not None
        if count % times or _is_whole(values, times) == _is_single(values, times):
            continue
        whole = _is_single(values, times)  # so that the inputs should be
        keys = _inputs(experiment, batch, count)
        told = [key for key in keys if _has_order(batch[key], times, whole)]
        if not _tell_apart([batch[key] for key in told], times, whole):
            continue
        if _by_chance(values, times) > CHANCE:
            continue
        read = [key for key in keys if key not in experiment.tensors or is_read(experiment, key)]
        if read and set(read) <= set(told) and _tell_apart([batch[k] for k in read], times, whole):
            return _made(read, label, values, times, whole)
    return None


def _inputs(experiment: Experiment, batch: Mapping[str, Tensor], count: int) -> list[str]:
    return [
        key
        for key, tensor in batch.items()
        if key not in experiment.targets and tensor.ndim and len(tensor) == count
    ]


def _has_order(values: Tensor, times: int, whole: bool) -> bool:
    return _is_whole(values, times) if whole else _is_single(values, times)


def _is_whole(values: Tensor, times: int) -> bool:
    """Whether the rows come again in their order once all were there."""
    rows = values.reshape(times, len(values) // times, -1)
    return bool((rows == rows[:1]).all())


def _is_single(values: Tensor, times: int) -> bool:
    """Whether each row comes again right after itself."""
    rows = values.reshape(len(values) // times, times, -1)
    return bool((rows == rows[:, :1]).all())


def _tell_apart(inputs: list[Tensor], times: int, whole: bool) -> bool:
    """Whether together they are different enough to be in this order alone."""
    if not inputs:
        return False
    count = len(inputs[0])
    order = torch.arange(count, device="cpu").reshape((times, -1) if whole else (-1, times))
    once = order[0] if whole else order[:, 0]
    rows = torch.cat([each.detach().cpu().reshape(count, -1).double() for each in inputs], 1)
    return len(rows[once].unique(dim=0)) >= max(LEAST, len(once) // 2) and not _has_order(
        rows, times, not whole
    )


def _by_chance(values: Tensor, times: int) -> float:
    """How likely labels as frequent as these are alike where they would be repeated."""
    rows = values.detach().cpu().reshape(len(values), -1)
    share = rows.unique(dim=0, return_counts=True)[1].double() / len(rows)
    return float(share.square().sum() ** (len(rows) - len(rows) // times))


def _made(keys: list[str], label: str, values: Tensor, times: int, whole: bool) -> Repeated:
    count = len(values)
    each = torch.arange(count, device="cpu")
    source = each % (count // times) if whole else each // times  # whose input a row has
    back = source * times if whole else source  # where the label of that one stands first
    rows = values.detach().cpu().reshape(count, -1)
    differs = (rows[:, None] != rows[None]).any(-1)
    pairs = differs & (source[:, None] == source[None])
    one, two = (int(i) for i in pairs.nonzero()[0])
    wrong = int(differs[each, back].sum())
    return Repeated(tuple(keys), label, times, whole, (one, two), wrong)
