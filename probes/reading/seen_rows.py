"""Of the rows that a learned table is asked for, those whose vectors reach what the loss sees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.modules import every_module
from probes.reading.alive import Alive, alive
from probes.reading.asked import is_ids
from probes.reading.indexing import Pick

BATCHES = 4
COLUMNS = 64
LEAST = 4  # rows that are asked for, and places of one sample, or one query, that are seen


@dataclass(frozen=True, slots=True)
class OneSeen:
    """Of `asked` rows of a table, `row` alone is asked for at the `places` that the loss sees.

    elsewhere: at how many places it is asked for the others.
    """

    name: str
    site: str
    row: int
    asked: int
    places: int
    elsewhere: int
    line: str | None


@dataclass(frozen=True, slots=True)
class _Read:
    """What one look-up asked for, and which of that the loss sees; both of the index's shape."""

    index: Tensor
    seen: Tensor


def one_seen(experiment: Experiment) -> Iterator[OneSeen]:
    """Tables that are asked for several rows, and for one alone where the loss sees it.

    That is so in each of the first batches, and it is one and the same row. Left out are look-ups
    that differ with the batch, and those of its own ids. Raises ExperimentError where the loss
    raises.
    """
    first = _by_table(experiment, alive(experiment))
    known = {name for name, (reads, _) in first.items() if _is_one(reads)}
    for batch in islice(experiment.subject.batches, BATCHES if known else 0):
        later = _by_table(experiment, alive(experiment, batch))
        known = {n for n in known if n in later and _agree(first[n][0], later[n][0])}
    root = next(every_module(experiment.subject.model))[0]
    for name in sorted(known):
        reads, pick = first[name]
        row, ids = _seen_rows(reads)[0], torch.cat([each.index.flatten() for each in reads])
        places, rest = sum(int(each.seen.sum()) for each in reads), int((ids != row).sum())
        site = name.rpartition(".")[0] or root
        yield OneSeen(name, site, row, len(ids.unique()), places, rest, pick.line)


def _by_table(experiment: Experiment, seen: Alive) -> dict[str, tuple[list[_Read], Pick]]:
    """All look-ups of a learned table, and the first of them, by its name."""
    held = {id(p): n for n, p in experiment.subject.model.named_parameters() if p.requires_grad}
    picks = [p for p in (*seen.looked_up, *seen.picks) if id(p.source) in held and not p.rows]
    given = [ids.cpu() for ids in _given(experiment)]
    found, left = dict[str, tuple[list[_Read], Pick]](), set[str]()
    for pick, grad in zip(picks, seen.of_loss([pick.out for pick in picks]), strict=True):
        name = held[id(pick.source)]
        if pick.op == "aten.gather" or any(_is_of(pick.index.cpu(), ids) for ids in given):
            left.add(name)
        elif grad is not None:
            found.setdefault(name, ([], pick))[0].append(_read(pick, grad))
    return {name: each for name, each in found.items() if name not in left}


def _given(experiment: Experiment) -> Iterator[Tensor]:
    """Ids of the batch as they are, without the first or the last place, and their columns."""
    for ids in experiment.tensors.values():
        if is_ids(ids):
            yield ids
            if ids.ndim > 1:
                yield from (ids[:, 1:], ids[:, :-1], *ids.unbind(-1)[:COLUMNS])


def _is_of(index: Tensor, ids: Tensor) -> bool:
    return index.numel() == ids.numel() and bool((index.flatten() == ids.flatten()).all())


def _is_one(reads: Sequence[_Read]) -> bool:
    """Whether one row is seen of several, at several places of a sample, and is the commonest.

    Steps of which the first alone is used so far are asked for as often as all others.
    """
    ids, count = torch.cat([each.index.flatten() for each in reads]).unique(return_counts=True)
    rows = _seen_rows(reads)
    if len(ids) < LEAST or len(rows) != 1:
        return False
    others = count[ids != rows[0]]
    at_once = max(
        int(each.seen.flatten(1 if each.seen.ndim > 1 else 0).sum(-1).max()) for each in reads
    )
    return at_once >= LEAST and bool((count[ids == rows[0]] > others).all())


def _agree(first: Sequence[_Read], later: Sequence[_Read]) -> bool:
    """Whether both see one and the same row, and ask alike as far as both have places."""
    pairs = zip(first, later, strict=False)
    alike = all(_same(one.index, two.index) for one, two in pairs)
    return alike and len(_seen_rows([*first, *later])) == 1


def _same(one: Tensor, two: Tensor) -> bool:
    """As far as both have places; of pairs in one row, such as all of a window, where they fit."""
    if one.ndim != two.ndim or (one.ndim == 1 and one.shape != two.shape):
        return one.ndim == two.ndim
    both = tuple(slice(min(sides)) for sides in zip(one.shape, two.shape, strict=True))
    return torch.equal(one[both], two[both])


def _seen_rows(reads: Sequence[_Read]) -> list[int]:
    rows: list[int] = torch.cat([each.index[each.seen] for each in reads]).unique().tolist()
    return rows


def _read(pick: Pick, grad: Tensor) -> _Read:
    over = [a for a in range(grad.ndim) if not pick.axis <= a < pick.axis + pick.index.ndim]
    seen = (grad != 0).any(over) if over else grad != 0
    return _Read(pick.index.cpu(), seen.view(pick.index.shape).cpu())
