"""Answers in the second of two texts of a row, whose places count from where that text begins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.reading.alive import alive, gradients
from probes.reading.asked import is_ids
from probes.reading.rows import looked
from probes.scoring.answer_spans import Sought, sought

FEWEST = 2  # answers of each sort
SHARE = 0.05  # of the answers, before the second text
ROOM = 6.0  # answers that would end behind, were places counted from the row's first
REACH = 0.75  # of a second text, that the answers come to
MARKS = 2  # separators beside each other between two texts

Batch = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Relative:
    """Answers that lie well in the second text of every row once what is before it is added.

    start, end: keys of the first and last place, or one key twice. told_by: the key that tells
    where the second text begins, after `least` to `most` places. before, across, within: answers
    that lie in the first text, in both or at the border, and in the second, of `of`.
    """

    start: str
    end: str
    told_by: str
    least: int
    most: int
    before: int
    across: int
    within: int
    of: int


@dataclass(frozen=True, slots=True)
class _Second:
    """Of all rows: (row,) where the second text begins, and how many places it has.

    The experiment's own batch stands first, then those that were looked at, which may be in another
    order each time that they are read. marked: whether one and the same id stands before each.
    """

    told_by: str
    begins: Tensor
    length: Tensor
    marked: bool


@dataclass(frozen=True, slots=True)
class _Rows:
    """All batches, read once."""

    batches: list[Batch]

    def of(self, key: str) -> list[Tensor]:
        """What each batch has there; nothing where one has not."""
        return [b[key].cpu() for b in self.batches] if all(key in b for b in self.batches) else []


def relative(experiment: Experiment) -> Relative | None:
    """Answers that can but be counted from their own text's first place, and are not scored there.

    As they stand some lie in the first text, some in the second, and some begin in the one and end
    in the other, or, of single places, stand at the separator.
    """
    found = list(sought(experiment))
    keys = {each.key for each in found}
    pairs = [(one, two) for one, two in permutations(found, 2) if one.key != two.key]
    rows = _Rows([dict(experiment.tensors), *looked(experiment)] if found else [])
    for one, two in pairs if len(keys) > 1 else [(each, each) for each in found]:
        if (one.moved, one.places) != (two.moved, two.places) or one.moved < 0:
            continue
        for second in _seconds(experiment, rows, one):
            told = _told(rows, one, two, second)
            if told is not None and _is_own(experiment, one, second):
                return told
    return None


def _told(rows: _Rows, one: Sought, two: Sought, second: _Second) -> Relative | None:
    firsts, lasts = rows.of(one.key), rows.of(two.key)
    if not firsts or not lasts or sum(map(len, firsts)) != len(second.begins):
        return None
    own = len(firsts[0])
    first, last = torch.cat(firsts[1:]), torch.cat(lasts[1:])
    begins, length = second.begins[own:], second.length[own:]
    asked = ~((first == 0) & (last == 0)) & ~((first < 0) & (last < 0))
    first, last = first[asked], last[asked]
    begins, length = begins[asked], length[asked]
    if not len(first) or bool(((first > last) | (first < 0) | (last >= length)).any()):
        return None
    if float(((last + 1) / length).max()) < REACH:
        return None
    first, last = first + one.moved, last + one.moved  # as they are scored
    after = last >= begins
    if float((torch.minimum(begins, length) / length)[after].sum()) < ROOM:
        return None
    across = (first < begins) & after
    if one.key == two.key:
        across = (first == begins - 1) & second.marked
    before, within = (last < begins) & ~across, first >= begins
    in_first, in_both, in_second = (int(each.sum()) for each in (before, across, within))
    if min(in_first, in_both, in_second) < FEWEST or in_first < SHARE * len(first):
        return None
    least, most = int(begins.min()), int(begins.max())
    counts = (in_first, in_both, in_second, len(first))
    return Relative(one.key, two.key, second.told_by, least, most, *counts)


def _is_own(experiment: Experiment, each: Sought, second: _Second) -> bool:
    """Whether a score hangs most on what stands at its own place of the row.

    A model may move its scores, so that the first of them is that of the second text's first place.
    """
    seen, size = alive(experiment), experiment.size
    key = experiment.tensors[each.key].cpu().long()
    moved = key + second.begins[:size]
    for call in seen.classed:
        if call.labels.ndim != 1 or not torch.equal(call.labels.cpu(), key + each.moved):
            continue
        own = call.labels.cpu()
        fits = (moved < each.places).nonzero().flatten()
        wanted = call.rows[fits.to(call.rows.device), own[fits].to(call.rows.device)].sum()
        for pick in seen.looked_up:
            if tuple(pick.index.shape) != (size, each.places) or not pick.out.requires_grad:
                continue
            [slope] = gradients(wanted, [pick.out]) if wanted.requires_grad else [None]
            if slope is not None:
                hangs = slope.flatten(2).norm(dim=-1).cpu()
                here, there = hangs[fits, own[fits]], hangs[fits, moved[fits]]
                return float(here.sum()) > float(there.sum())
    return False


def _seconds(experiment: Experiment, rows: _Rows, each: Sought) -> Iterator[_Second]:
    """By a key of types of the tokens, then by a separator among the ids."""
    shape = (experiment.size, each.places)
    keys = [k for k, t in experiment.tensors.items() if is_ids(t) and tuple(t.shape) == shape]
    indices = [pick.index.cpu() for pick in alive(experiment).looked_up]
    for key in keys:
        ids = rows.of(key)
        read = any(torch.equal(i, experiment.tensors[key].cpu().to(i.dtype)) for i in indices)
        if not ids or not read:
            continue
        full = _filled(ids)
        for kind in keys:
            types = rows.of(kind)
            if kind != key and [t.shape for t in types] == [t.shape for t in ids]:
                yield from _second(kind, ids, full, _by_types(types))
        for mark in ids[0][0].unique().tolist():
            yield from _second(key, ids, full, _by_mark(ids, full, mark))


def _filled(ids: list[Tensor]) -> list[Tensor]:
    """(row,) places before the padding: the id of the longest run that ends a row."""
    runs = [(rows == rows[:, -1:]).flip(1).cumprod(1).sum(1) for rows in ids]
    length, pad = max(
        (int(run.max()), int(rows[run.argmax(), -1])) for rows, run in zip(ids, runs, strict=True)
    )
    return [
        rows.shape[1] - torch.where((rows[:, -1] == pad) & (length > 1), run, 0)
        for rows, run in zip(ids, runs, strict=True)
    ]


def _second(
    key: str, ids: list[Tensor], full: list[Tensor], begins: list[Tensor] | None
) -> Iterator[_Second]:
    """The second texts, without the separator that ends them; nothing where one is empty."""
    if begins is None:
        return
    closing = _at(ids, [each - 1 for each in full])
    ends = torch.cat(full) - int(bool((closing == closing[0]).all()))
    start = torch.cat(begins)
    if bool((start >= ends).any()):
        return
    border = _at(ids, [each - 1 for each in begins])
    yield _Second(key, start, ends - start, bool((border == border[0]).all()))


def _at(ids: list[Tensor], places: list[Tensor]) -> Tensor:
    """(row,) the ids at one place of each row, of all batches."""
    at = [i.gather(1, p.clamp(min=0)[:, None])[:, 0] for i, p in zip(ids, places, strict=True)]
    return torch.cat(at)


def _by_types(types: list[Tensor]) -> list[Tensor] | None:
    """Where a second type begins, if each row has a run of one, then of another, then padding."""
    begins, kinds = [], set()
    for rows in types:
        places, first = torch.arange(rows.shape[1], device="cpu"), rows[:, :1]
        start = (rows == first).cumprod(1).sum(1)
        if bool((start >= rows.shape[1]).any()):
            return None
        other = rows.gather(1, start[:, None])
        run = ((rows == other) | (places < start[:, None])).cumprod(1).sum(1)
        rest = rows[places >= run[:, None]].unique()
        kinds |= {(int(a), int(b)) for a, b in zip(first, other, strict=True)}
        if len(kinds) > 1 or len(rest) > 1:
            return None
        begins.append(start)
    return begins


def _by_mark(ids: list[Tensor], full: list[Tensor], mark: int) -> list[Tensor] | None:
    """Where what follows a mark begins, if it stands once in each row, and may end it as well."""
    begins, counts = [], set()
    for rows, filled in zip(ids, full, strict=True):
        is_mark = rows == mark
        closes = is_mark.gather(1, (filled - 1).clamp(min=0)[:, None])[:, 0]
        within = is_mark & (torch.arange(rows.shape[1], device="cpu") < filled[:, None])
        count, first = within.sum(1) - closes.long(), within.long().argmax(1)
        counts |= set(count.tolist())
        if len(counts) > 1 or not 1 <= min(counts) <= MARKS or bool((first == 0).any()):
            return None
        last = first + count - 1
        if not bool(is_mark.gather(1, last[:, None]).all()):
            return None
        begins.append(last + 1)
    return begins
