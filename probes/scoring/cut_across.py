"""A text that was cut the wrong way: it goes on from row to row, and not along its rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.reading.rows import looked
from probes.scoring.wanted import Wanted, is_by_place, wanted

LEAST = 300  # pairs of ids to tell it by
SURE = 5.0  # standard errors
ENDS = 3.0  # of them, for the few pairs from the last row to the first
GAIN = 0.1  # of the ids below, that the id above tells beyond chance
ALONG = 0.2  # of that gain, at most, that the id before tells
SAME = 0.5  # of the ids below that are those above: rows are then copies


@dataclass(frozen=True, slots=True)
class CutAcross:
    """along, across, chance: the share of ids that the id before, the one above, and none tells.

    time_first: the samples stand along the second axis of the key; then "above" is beside.
    """

    key: str
    output: str
    along: float
    across: float
    chance: float
    time_first: bool = False


def cut_across(experiment: Experiment) -> Iterator[CutAcross]:
    """Keys of which the next id of the row is asked for, told by the row above alone.

    Which id follows which is counted in every second batch, or in one half of each row, and tried
    in the rest. Windows that overlap tell along their rows as well, and rows that are copies are
    passed over. Raises ExperimentError.
    """
    for each in wanted(experiment):
        if each.ahead == 1:
            found = _told(_rows(experiment, each.key))
            if found is not None:
                yield CutAcross(each.key, each.output, *found)
    yield from _time_first(experiment)


def _time_first(experiment: Experiment) -> Iterator[CutAcross]:
    """The same of ids (time, sample), where the text itself goes on from time to time.

    What each time ends with is then followed by what the next one begins with, and the loss asks
    each sample for what the next time holds of it.
    """
    for key, ids in experiment.tensors.items():
        if not is_by_place(ids):
            continue
        rows = [each.t() for each in _rows(experiment, key, time=0) if each.ndim == 2]
        found = _told(rows, ends=True)
        output = None if found is None else _asked_for_next_time(experiment, key)
        if found is not None and output is not None:
            yield CutAcross(key, output, *found, time_first=True)


def _asked_for_next_time(experiment: Experiment, key: str) -> str | None:
    """The output that the loss wants what the next entry of the key's first axis holds of."""
    whole = experiment
    if experiment.uncut is not None:  # entries of the first axis were left out as samples
        whole = experiment.of_batch(experiment.uncut)
    return next((e.output for e in wanted(whole) if e.key == key and _turned(e).ahead == 1), None)


def _turned(each: Wanted) -> Wanted:
    return replace(each, ids=each.ids.t(), asked=each.asked.t(), scored=each.scored.t())


def _rows(experiment: Experiment, key: str, time: int = 1) -> list[Tensor]:
    """The key in each of the first batches; without the last one, where a text ended early."""
    rows = [batch[key].cpu() for batch in looked(experiment) if key in batch]
    if len(rows) > 2 and rows[-1].ndim == 2 and rows[-1].shape[time] < rows[0].shape[time]:
        return rows[:-1]
    return rows


def _told(rows: list[Tensor], ends: bool = False) -> tuple[float, float, float] | None:
    """Of rows (sample, time). ends: the last row must go on in the first, one time later."""
    width = rows[0].shape[-1] if rows else 0
    if any(each.ndim != 2 or each.shape[1] != width or len(each) < 3 for each in rows):
        return None
    if len(rows) < 2:
        rows = [each for row in rows for each in row.tensor_split(2, dim=1)]
    known, tried = rows[::2], rows[1::2]
    if not tried or sum(each.numel() for each in tried) < LEAST:
        return None
    if _copied(tried) > SAME:
        return None
    along, before = _hits(known, [_pairs(each, 1) for each in tried], 1)
    across, above = _hits(known, [_pairs(each, 0) for each in tried], 0)
    chance = max(before, above)
    weak = along - chance <= ALONG * (across - chance)
    if across - chance < GAIN or not weak or not _is_sure(across, chance, tried):
        return None
    if ends and not _goes_on(known, rows, across, chance):
        return None
    return along, across, chance


def _is_sure(share: float, chance: float, tried: list[Tensor], errors: float = SURE) -> bool:
    count = sum(each.numel() for each in tried)
    error = (max(share * (1 - share), chance * (1 - chance)) / count) ** 0.5
    return bool(share - chance > errors * error)


def _goes_on(known: list[Tensor], rows: list[Tensor], across: float, chance: float) -> bool:
    """Whether what the last row holds tells what the first one does a time later, as rows do."""
    ends = [(each[-1, :-1], each[0, 1:]) for each in rows]
    told, _ = _hits(known, ends, 0)
    many = [one for one, _ in ends]
    return told - chance >= (across - chance) / 2 and _is_sure(told, chance, many, ENDS)


def _pairs(rows: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    n = rows.shape[axis] - 1
    return rows.narrow(axis, 0, n).flatten(), rows.narrow(axis, 1, n).flatten()


def _hits(
    known: list[Tensor], tried: list[tuple[Tensor, Tensor]], axis: int
) -> tuple[float, float]:
    """The share of pairs of which the second is guessed from the first, and by the commonest id.

    By what most often follows along the axis in what is known.
    """
    seen = torch.cat([torch.stack(_pairs(each, axis)) for each in known], 1).long()
    pairs, counts = seen.unique(dim=1, return_counts=True)
    rising = pairs[:, counts.argsort(stable=True)].t().tolist()
    best = dict(rising)
    common = int(seen[1].mode().values)
    one, two = (torch.cat(parts).long() for parts in zip(*tried, strict=True))
    guess = torch.tensor([best.get(each, common) for each in one.tolist()], device="cpu")
    return float((guess == two).double().mean()), float((two == common).double().mean())


def _copied(rows: list[Tensor]) -> float:
    pairs = [_pairs(each, 0) for each in rows]
    one, two = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return float((one == two).double().mean())
