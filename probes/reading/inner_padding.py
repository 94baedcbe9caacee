"""The id of padding where it is none: among others, within rows that end in runs of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import torch
from torch import Tensor, nn

from probes.bus import Kind
from probes.experiment import Experiment
from probes.finding import ExperimentError
from probes.masking.as_marked import truths
from probes.masking.trailing import ROWS
from probes.reading.alive import alive
from probes.reading.rows import looked
from probes.scoring.wanted import is_by_place

LEAST = 3  # places, and rows, where the id stands among others
OFTEN = 2.0  # times as often as the commonest other id, at most
APART = 0.1  # of the places, beyond what chance would have stand side by side


Taken = Literal["row", "mask", "label"]


@dataclass(frozen=True)
class Inner:
    """An embedding is given ids of which the one that is taken for padding stands among others.

    taken: by what it is: the table's `padding_idx`, a mask that the code makes of the ids, or
    labels that the loss ignores. places: how many of these ids stand outside of the runs that rows
    end in, or begin with, of `of` there. rows: of the table. unused: its last row, where it alone
    is asked for nowhere.
    """

    key: str
    table: str
    pad: int
    taken: Taken
    places: int
    of: int
    rows: int
    unused: int | None


@dataclass(frozen=True)
class _Rows:
    """Rows of one batch: (row, place) the ids, and where the run of padding stands."""

    ids: Tensor
    runs: Tensor


def inner(experiment: Experiment) -> Iterator[Inner]:
    """At most one a key and table: by what the first batches hold."""
    for name, table in experiment.subject.model.named_modules():
        if not isinstance(table, nn.Embedding):
            continue
        keys = [key for key, ids in experiment.tensors.items() if _reads(experiment, name, ids)]
        for key in keys:
            pads = _taken(experiment, table, experiment.tensors[key])
            found = (
                _of(experiment, name, table.num_embeddings, key, pad, how) for pad, how in pads
            )
            yield from islice((each for each in found if each is not None), 1)


def _taken(experiment: Experiment, table: nn.Embedding, ids: Tensor) -> Iterator[tuple[int, Taken]]:
    """What is padding to the table, to masks that the code makes of the ids, and to the loss.

    To a loss of as many classes as the table has rows: others have other labels.
    """
    if table.padding_idx is not None and table.weight.requires_grad:
        yield int(table.padding_idx), "row"
    try:
        asked, classed = truths(experiment), alive(experiment).classed
    except ExperimentError:
        return
    for pad in dict.fromkeys([0, *torch.cat([ids[:, -1], ids[:, 0]]).tolist()]):
        same = (ids == pad).flatten()
        if any(torch.equal(each.flatten(), form) for each in asked for form in (same, ~same)):
            yield pad, "mask"
    for pad in {each.ignored for each in classed if len(each.rows[0]) == table.num_embeddings}:
        if pad >= 0:
            yield pad, "label"


def _of(
    experiment: Experiment, name: str, count: int, key: str, pad: int, taken: Taken
) -> Inner | None:
    """Of a table of so many rows."""
    batches = list(looked(experiment))
    held = [batch[key].detach().cpu() for batch in batches if key in batch]
    for side in ("right", "left"):
        rows = [_Rows(ids, _runs(ids, pad, side)) for ids in held if is_by_place(ids)]
        if _pads(rows) and _is_among(rows, pad, side):
            places = sum(int(((each.ids == pad) & ~each.runs).sum()) for each in rows)
            of = sum(int((~each.runs).sum()) for each in rows)
            used = _used(experiment, name, batches)
            unused = count - 1 if used == set(range(count - 1)) else None
            return Inner(key, name, pad, taken, places, of, count, unused)
    return None


def _reads(experiment: Experiment, name: str, ids: Tensor) -> bool:
    """Whether the table is given these ids, all or all but the first or the last of each row."""
    if not is_by_place(ids):
        return False
    forms = [form.flatten() for form in (ids, ids.T, ids[:, :-1], ids[:, 1:])]
    return any(torch.equal(given, form) for given in _given(experiment, name) for form in forms)


def _given(experiment: Experiment, name: str) -> Iterator[Tensor]:
    for each in experiment.evaluated.ran.events:
        if each.module == name and each.kind is Kind.INPUT and each.value is not None:
            yield each.value.flatten()


def _used(experiment: Experiment, name: str, batches: Sequence[dict[str, Tensor]]) -> set[int]:
    """Rows that are asked for, by keys of ids or by the model's own code, or are a label."""
    tensors = experiment.tensors.items()
    keys = {key for key, ids in tensors if _reads(experiment, name, ids)} | {*experiment.targets}
    held = [batch[key] for batch in batches for key in batch if key in keys]
    held += list(_given(experiment, name))
    whole = [each.flatten().cpu().long() for each in held if not each.is_floating_point()]
    return {int(row) for row in torch.cat(whole).unique() if row >= 0}


def _runs(ids: Tensor, pad: int, side: str) -> Tensor:
    """(row, place) true in the run of padding at that end of each row."""
    same = ids == pad
    if side == "left":
        return same.cumprod(1).bool()
    return same.flip(1).cumprod(1).flip(1).bool()


def _pads(rows: Sequence[_Rows]) -> bool:
    """Whether some rows end so, after several lengths, of which one is of two places or more."""
    lengths = (
        torch.cat([each.runs.sum(1) for each in rows]) if rows else torch.empty(0, device="cpu")
    )
    some = lengths[lengths > 0]
    return len(some) >= ROWS and len(some.unique()) >= 2 and int(some.max()) >= 2


def _is_among(rows: Sequence[_Rows], pad: int, side: str) -> bool:
    """Whether the id stands among the others as one of them does.

    As often, and neither side by side, as padding of a part of the row would, nor with an end at
    the same places in many rows.
    """
    real = torch.cat([each.ids[~each.runs] for each in rows])
    others = real[real != pad].unique(return_counts=True)[1]
    if len(others) < LEAST or not LEAST <= int((real == pad).sum()) <= OFTEN * int(others.max()):
        return False
    within = [(each.ids == pad) & ~each.runs for each in rows]
    if sum(int(each.any(1).sum()) for each in within) < LEAST:
        return False
    return not _stands_together(rows, within) and not any(_at_places(each, side) for each in within)


def _stands_together(rows: Sequence[_Rows], within: Sequence[Tensor]) -> bool:
    """Whether it is followed by itself more often than by chance, and than others are."""
    count = sum(int(each.sum()) for each in within)
    pairs = sum(int((each[:, 1:] & each[:, :-1]).sum()) for each in within)
    real = [~each.runs[:, 1:] & ~each.runs[:, :-1] for each in rows]
    twice = [each.ids[:, 1:] == each.ids[:, :-1] for each in rows]
    both = sum(int((a & b).sum()) for a, b in zip(real, twice, strict=True)) - pairs
    of_all = sum(int(each.sum()) for each in real)
    usual = max(count / max(1, of_all), both / max(1, of_all - count))
    return pairs / count > 2 * usual + APART


def _at_places(within: Tensor, side: str) -> bool:
    """Whether its runs end at the same place in more rows of a batch than by chance."""
    nothing = torch.zeros_like(within[:, :1])
    after = torch.cat([within[:, 1:], nothing], 1)
    before = torch.cat([nothing, within[:, :-1]], 1)
    ends = (within & ~(before if side == "left" else after)).sum(0)
    return int(ends.max()) > 3 + 4 * int(ends.sum()) / within.shape[1]
