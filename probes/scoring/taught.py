"""The scores that a loss of classes is given, laid beside the key that holds their labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.scoring.calls import Call

AHEAD = 3  # first places of a key that may have no label
FEW = 4  # labels that are no chance


@dataclass(frozen=True)
class Taught:
    """What the loss is given: (sample, place, class) scores and (sample, place) labels.

    key: of the batch, whose places from `start` on are the labels. counted: (sample, place).
    """

    key: str
    start: int
    scores: Tensor
    labels: Tensor
    counted: Tensor


def taught(
    experiment: Experiment,
    calls: Sequence[Call],
    keys: Mapping[str, Tensor],
    like: Taught | None = None,
) -> Taught | None:
    """The one call, or one a place, that is given labels of a key; None without, or of several.

    keys: the tensors of the batch by path. like: found with other labels, which are where it was.
    """
    size = experiment.size
    found = [
        each
        for key, ids in keys.items()
        if ids.ndim == 2 and len(ids) == size and ids.dtype in (torch.int64, torch.int32)
        for each in _of(key, ids, calls)
        if (_is_no_chance(each) if like is None else _is_like(each, like))
    ]
    first = next(iter(found), None)
    same = all(first is not None and torch.equal(first.scores, one.scores) for one in found)
    return first if same else None


def _of(key: str, ids: Tensor, calls: Sequence[Call]) -> Iterator[Taught]:
    for scores, labels, counted in _laid_out(len(ids), calls):
        places = labels.shape[1]
        for start in range(AHEAD):
            own = ids[:, start : start + places]
            inside = own.shape[1]
            if not inside or bool(counted[:, inside:].any()):
                continue
            if bool((own == labels[:, :inside])[counted[:, :inside]].all()):
                yield Taught(key, start, scores, labels, counted)


def _laid_out(size: int, calls: Sequence[Call]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(sample, place) forms of what losses of classes are given, be it a call a place."""
    known = [c for c in calls if c.kind == "class" and c.labels.numel() >= size]
    single = [c for c in known if c.labels.shape == (size,) and c.scores.ndim == 2]
    if len(single) > 1 and len({c.scores.shape for c in single}) == 1:
        parts = [torch.stack(list(each), 1) for each in zip(*map(_parts, single), strict=True)]
        yield from _kept(parts)
    for call in known:
        if call.labels.numel() % size or call.labels.numel() == size:
            continue
        places = call.labels.numel() // size
        if call.labels.ndim == 1 or len(call.labels) == size:
            yield from _kept([_rows(each, size, places) for each in _parts(call)])
        if call.labels.ndim == 1 or tuple(call.labels.shape) == (places, size):
            turned = [_rows(each, places, size).transpose(0, 1) for each in _parts(call)]
            yield from _kept(turned)


def _parts(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    return call.scores, call.labels, call.counted


def _rows(value: Tensor, first: int, second: int) -> Tensor:
    classes = value.shape[-1:] if value.is_floating_point() else ()
    return value.reshape(first, second, *classes)


def _kept(parts: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    scores, labels, counted = parts
    if int(counted.sum()) >= FEW:
        yield scores, labels, counted


def _is_no_chance(each: Taught) -> bool:
    return len(each.labels[each.counted].unique()) > 2


def _is_like(each: Taught, other: Taught) -> bool:
    known = (each.key, each.start) == (other.key, other.start)
    return known and each.scores.shape == other.scores.shape
