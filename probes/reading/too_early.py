"""Places in a key that were counted without the token that every row starts with: by ids alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.experiment import Experiment, with_leaf
from probes.finding import ExperimentError
from probes.reading.alive import Alive, alive
from probes.reading.asked import is_ids
from probes.reading.indexing import Pick
from probes.reading.rows import looked
from probes.vary import vary

FEW = 5  # places that hit the start token
CHANCE = 1e-3  # below it, numbers are not by chance
SURE = 1e-6  # below it, the ids that stand after the places are of their own kind
EXPECTED = 5.0  # of an id by chance, or it is counted with others that are rare


@dataclass(frozen=True, slots=True)
class TooEarly:
    """A key whose places all lie one token before what they are of.

    of: the key of ids. start: the id that every row starts with; hits: places that hit it, of
    `count`. near: places that hit one of the two tokens before the last of their row, which none
    hits. alike: how many of the ids after a hit are of those that stand after the other places;
    usual: their share in rows whose start is not hit. pick: how the code reads there.
    """

    key: str
    of: str
    start: int
    hits: int
    count: int
    near: int
    alike: int
    usual: float
    pick: Pick


@dataclass(frozen=True, slots=True)
class _Row:
    """The ids of a row without what fills it up, and the places that a key names in it."""

    ids: list[int]
    at: list[int]


def too_early(experiment: Experiment) -> Iterator[TooEarly]:
    """At most one for each key of places that code reads at, in a model that also reads on."""
    seen = alive(experiment)
    for of, ids in experiment.tensors.items():
        if not is_ids(ids) or ids.ndim != 2 or len(ids) < 2:
            continue
        found = _pointers(experiment, seen, ids)
        rows = {key: _rows(experiment, of, key) for key in found or {}}
        if not rows or any(_is_last(each) for own in rows.values() for each in own):
            continue  # of spans whose start is the place before, the end is the last at times
        for key, own in rows.items():
            told = _judged(own)
            if told is not None and _is_shown(experiment, of, key, (found or {})[key]):
                yield TooEarly(key, of, own[0].ids[0], *told, (found or {})[key])


def _pointers(experiment: Experiment, seen: Alive, ids: Tensor) -> dict[str, Pick] | None:
    """The keys whose numbers are read at, as they are; None where other numbers are as well."""
    found = dict[str, Pick]()
    for pick in seen.picks:
        if pick.axis != 1 or tuple(pick.source.shape[:2]) != tuple(ids.shape):
            continue
        at = pick.index.long()
        if pick.op == "aten.gather":
            at = at.reshape(*at.shape[:2], -1)[..., 0]
        if pick.source.ndim < 3 or not pick.out.requires_grad or len(at.unique()) == 1:
            continue
        keys = [key for key, t in experiment.tensors.items() if is_ids(t) and _is_of(at, t)]
        if not keys:
            return None
        found.setdefault(keys[0], pick)
    return found


def _is_of(at: Tensor, key: Tensor) -> bool:
    """Whether places are a key's numbers, or one column of them."""
    at = at.to(key.device).squeeze(-1)
    columns = key.unbind(1) if key.ndim == 2 else ()
    return any(at.shape == each.shape and torch.equal(at, each.long()) for each in (key, *columns))


def _is_shown(experiment: Experiment, of: str, key: str, pick: Pick) -> bool:
    """Whether what is read at the places moves with the id after the last of each row."""
    ids, places = experiment.tensors[of], experiment.tensors[key]
    then = torch.zeros_like(ids, dtype=torch.bool)
    last = places.reshape(len(ids), -1).long().amax(1, keepdim=True)
    then.scatter_(1, (last + 1).clamp(0, ids.shape[1] - 1), True)
    other = vary(ids, then)
    if other is None:
        return False
    try:
        picks = alive(experiment, with_leaf(experiment.batch, of, other)).picks
    except ExperimentError:
        return False
    before = [each for each in alive(experiment).picks if each.line == pick.line]
    after = [each for each in picks if each.line == pick.line]
    pairs = [(a.out, b.out) for a, b in zip(before, after, strict=False) if a is pick]
    return any(a.shape == b.shape and not torch.equal(a, b) for a, b in pairs)


def _rows(experiment: Experiment, of: str, key: str) -> list[_Row]:
    """Those of the first batches; none where the places do not fit."""
    ids, places = list[list[int]](), list[list[int]]()
    filled = set[int]()
    for mask in experiment.masks:
        if mask.keep.shape == experiment.tensors[of].shape:
            filled |= set(experiment.tensors[of][~mask.keep].tolist())
    for batch in looked(experiment):
        if of in batch and key in batch and len(batch[of]) == len(batch[key]):
            ids += batch[of].tolist()
            places += batch[key].reshape(len(batch[key]), -1).tolist()
    pad = next(iter(filled)) if len(filled) == 1 else filler(ids)
    ids = without_ends([cut(row, pad) for row in ids])
    rows = [_Row(row, at) for row, at in zip(ids, places, strict=True) if len(row) > 2]
    return [] if any(p < 0 for row in rows for p in row.at) else rows


def filler(rows: Sequence[Sequence[int]]) -> int | None:
    """The one id that rows end with, some of them more often than others, and hold nowhere else."""
    ends = Counter(row[-1] for row in rows if row)
    pad = ends.most_common(1)[0][0] if ends else None
    runs = [len(row) - len(cut(row, pad)) for row in rows]
    alone = all(run == row.count(pad) for run, row in zip(runs, rows, strict=True))
    return pad if len(set(runs)) > 1 and alone else None


def cut(row: Sequence[int], pad: int | None) -> list[int]:
    """The row without what fills it up at its end."""
    end = len(row)
    while end and row[end - 1] == pad:
        end -= 1
    return list(row[:end])


def without_ends(rows: list[list[int]]) -> list[list[int]]:
    """Without the token that all rows end with, such as a separator."""
    while rows and min(map(len, rows)) > 2 and len({row[-1] for row in rows}) == 1:
        rows = [row[:-1] for row in rows]
    return rows


def _is_last(row: _Row) -> bool:
    return any(p >= len(row.ids) - 1 for p in row.at)


def _judged(rows: Sequence[_Row]) -> tuple[int, int, int, int, float] | None:
    """Hits of the start, all places, those near the end, and what is alike after a hit."""
    starts = {row.ids[0] for row in rows}
    if len(starts) != 1 or any(starts & set(row.ids[1:]) for row in rows):
        return None
    places = [(row, p) for row in rows for p in row.at]
    hit = [row for row, p in places if p == 0]
    near = sum(p in (len(row.ids) - 2, len(row.ids) - 3) for row, p in places)
    if len(hit) < FEW or (2 / 3) ** near > CHANCE:
        return None
    return _kinds(rows, hit, near, len(places))


def _kinds(
    rows: Sequence[_Row], hit: Sequence[_Row], near: int, count: int
) -> tuple[int, int, int, int, float] | None:
    """The ids after all places must be of a kind, those after a hit too, and those at them not."""
    here, after, rest = Counter[int](), Counter[int](), Counter[int]()
    for row in rows:
        at, then = {p for p in row.at if p}, {p + 1 for p in row.at}
        here.update(row.ids[p] for p in at - then)
        after.update(row.ids[p] for p in then if p > 1)
        rest.update(each for i, each in enumerate(row.ids) if i and i not in at and i not in then)
    if not here or not rest or unlike(after, rest) > SURE or unlike(here, rest) < CHANCE:
        return None
    kind = {n for n in after if after[n] * rest.total() > rest[n] * after.total()}
    others = [row.ids[1] in kind for row in rows if 0 not in row.at]
    alike = sum(row.ids[1] in kind for row in hit)
    usual = (sum(others) + 1) / (len(others) + 2)
    share = sum(after[n] for n in kind) / after.total()
    if alike < 0.9 * share * len(hit) or _tail(alike, len(hit), usual) > CHANCE:
        return None
    return len(hit), count, near, alike, usual


def _tail(least: int, count: int, share: float) -> float:
    """The chance of so many of the count, or more."""
    terms = range(least, count + 1)
    return sum(math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in terms)


def unlike(one: Counter[int], two: Counter[int]) -> float:
    """The chance of two such counts of ids if both are of one distribution, by chi squared."""
    small = min(one.total(), two.total()) / (one.total() + two.total())
    common = [n for n in {*one, *two} if small * (one[n] + two[n]) >= EXPECTED]
    table = [(one[n], two[n]) for n in common]
    left = one.total() - sum(a for a, _ in table), two.total() - sum(b for _, b in table)
    table += [left] if sum(left) else []
    cells = torch.tensor(table, dtype=torch.float64, device="cpu")
    if len(cells) < 2:
        return 1.0
    expected = cells.sum(1, keepdim=True) * cells.sum(0) / cells.sum()
    value = ((cells - expected).square() / expected).sum()
    return float(torch.special.gammaincc(_half(len(cells) - 1), value / 2))


def _half(degrees: int) -> Tensor:
    return torch.tensor(degrees / 2, dtype=torch.float64, device="cpu")
