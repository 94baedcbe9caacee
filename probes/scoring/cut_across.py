"""A text that was cut the wrong way: it goes on from row to row, and not along its rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.reading.rows import looked
from probes.scoring.wanted import wanted

LEAST = 300  # pairs of ids to tell it by
SURE = 5.0  # standard errors
GAIN = 0.1  # of the ids below, that the id above tells beyond chance
ALONG = 0.2  # of that gain, at most, that the id before tells
SAME = 0.5  # of the ids below that are those above: rows are then copies


@dataclass(frozen=True, slots=True)
class CutAcross:
    """along, across, chance: the share of ids that the id before, the one above, and none tells."""

    key: str
    output: str
    along: float
    across: float
    chance: float


def cut_across(experiment: Experiment) -> Iterator[CutAcross]:
    """Keys of which the next id of the row is asked for, told by the row above alone.

    Which id follows which is counted in every second batch, or in one half of each row, and tried
    in the rest. Windows that overlap tell along their rows as well, and rows that are copies are
    passed over. Raises ExperimentError.
    """
    for each in wanted(experiment):
        if each.ahead == 1:
            found = _told(experiment, each.key)
            if found is not None:
                yield CutAcross(each.key, each.output, *found)


def _told(experiment: Experiment, key: str) -> tuple[float, float, float] | None:
    width = experiment.tensors[key].shape[1]
    rows = [batch[key].cpu() for batch in looked(experiment) if key in batch]
    if any(each.ndim != 2 or each.shape[1] != width or len(each) < 3 for each in rows):
        return None
    if len(rows) < 2:
        rows = [each for row in rows for each in row.tensor_split(2, dim=1)]
    known, tried = rows[::2], rows[1::2]
    if not tried or sum(each.numel() for each in tried) < LEAST:
        return None
    if _copied(tried) > SAME:
        return None
    along, before = _hits(known, tried, 1)
    across, above = _hits(known, tried, 0)
    chance = max(before, above)
    gain = across - chance
    count = sum(each.numel() for each in tried)
    error = (max(across * (1 - across), chance * (1 - chance)) / count) ** 0.5
    sure = gain > SURE * error
    weak = along - chance <= ALONG * gain
    return (along, across, chance) if gain >= GAIN and sure and weak else None


def _pairs(rows: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    n = rows.shape[axis] - 1
    return rows.narrow(axis, 0, n).flatten(), rows.narrow(axis, 1, n).flatten()


def _hits(known: list[Tensor], tried: list[Tensor], axis: int) -> tuple[float, float]:
    """The share that is guessed from the neighbour along this axis, and by the commonest id."""
    lowest = min(int(each.min()) for each in (*known, *tried))
    size = max(int(each.max()) for each in (*known, *tried)) - lowest + 1
    if size > 4096:
        return 0.0, 1.0
    counts = torch.zeros(size, size)
    for each in known:
        one, two = (part.long() - lowest for part in _pairs(each, axis))
        counts.index_put_((one, two), torch.ones(len(one)), accumulate=True)
    best, common = counts.argmax(1), int(counts.sum(0).argmax())
    pairs = [_pairs(each, axis) for each in tried]
    one, two = (torch.cat(parts).long() - lowest for parts in zip(*pairs, strict=True))
    return float((best[one] == two).double().mean()), float((two == common).double().mean())


def _copied(rows: list[Tensor]) -> float:
    pairs = [_pairs(each, 0) for each in rows]
    one, two = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return float((one == two).double().mean())
