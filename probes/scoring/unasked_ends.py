"""Rows that end in their padding's own id, which no output is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.finding import ExperimentError
from probes.reading.alive import alive
from probes.reading.rows import looked
from probes.scoring.answers import lines_of
from probes.scoring.class_names import ends_called
from probes.scoring.fed_target import ROUNDING, moved
from probes.scoring.wanted import Wanted, asked, is_by_place

BATCHES = 3  # whose shortest padding is the end alone


@dataclass(frozen=True)
class Ends:
    """Where rows end in the id that pads them: (row,) indices, and the place of each one's end.

    end: the id, or a number below all ids that labels hold there. kept: the key that says that it
    is none of the padding; None where the longest row of each batch does. guessed: the line that
    would declare that key.
    """

    end: int
    rows: Tensor
    places: Tensor
    kept: str | None = None
    guessed: str | None = None


@dataclass(frozen=True)
class UnaskedEnd:
    """The ids of a key are scored one after the other, up to the one before its end.

    rows: how many are so. left_out: the key of labels that are below all ids there; None where it
    is the loss's doing. sure: whether it is told to be no padding, by a key that keeps it among
    what the model reads, or by what the code calls it.
    """

    key: str
    ends: Ends
    rows: int
    left_out: str | None
    sure: bool


def unasked_ends(experiment: Experiment) -> Iterator[UnaskedEnd]:
    """Every key of ids that a model goes on with, whose end is left out with the padding.

    Nothing where the last id that is scored is one and the same, as it is an end too, nor where as
    many are scored in all rows, which may be how many there are to say.
    """
    for key, ids in experiment.tensors.items():
        if not is_by_place(ids) or len(ids) != experiment.size:
            continue
        for ends in _ends(experiment, key, ids):
            try:
                each = _next_asked(experiment, key, ids, ends)
            except ExperimentError:
                break
            if each is not None:
                yield each
                break


def _ends(experiment: Experiment, key: str, ids: Tensor) -> Iterator[Ends]:
    """Each way in which it is told."""
    yield from _by_mask(experiment, ids)
    yield from _by_count(experiment, ids)
    yield from _by_width(experiment, key, ids)


def _by_mask(experiment: Experiment, ids: Tensor) -> Iterator[Ends]:
    """Of every mask that keeps, at each end of what it keeps, the one id that it hides."""
    known = {each.mask.key: each for each in experiment.masks if each.keep.shape == ids.shape}
    places = torch.arange(ids.shape[1], device=ids.device)
    for each in known.values():
        keep = each.keep.to(ids.device)
        kinds = ids[~keep].unique()
        rows = (keep.any(1) & ~keep.all(1)).nonzero().flatten()
        last = torch.where(keep, places, -1).amax(1)[rows]
        if len(kinds) == 1 and int(kinds) >= 0 and bool((ids[rows, last] == kinds).all()):
            yield Ends(int(kinds), rows, last, each.mask.key, each.guessed)


def _by_count(experiment: Experiment, ids: Tensor) -> Iterator[Ends]:
    """Of every key that counts each row up to the first of what it ends in."""
    runs = _runs(ids)
    if runs is None or int(ids[0, -1]) < 0:
        return
    first = ids.shape[1] - runs
    for key, counts in experiment.tensors.items():
        whole = counts.ndim == 1 and not counts.is_floating_point() and len(counts) == len(ids)
        if whole and len(first.unique()) > 1 and torch.equal(counts.to(first), first + 1):
            yield Ends(int(ids[0, -1]), torch.arange(len(ids), device=ids.device), first, key)


def _by_width(experiment: Experiment, key: str, ids: Tensor) -> Iterator[Ends]:
    """Of rows that all end in one id, in each batch one of them in a single one.

    Padding up to the longest row leaves that one without any, so that it is its end, or what its
    end was ignored by. Batches must be of several widths.
    """
    end, runs = int(ids[0, -1]), _runs(ids)
    if runs is None:
        return
    widths = []
    for batch in looked(experiment):
        found = batch.get(key)
        run = None if found is None or found.ndim != 2 else _runs(found)
        if found is None or run is None or int(found[0, -1]) != end or int(run.min()) != 1:
            return
        widths.append(found.shape[1])
    if len(widths) >= BATCHES and len(set(widths)) > 1:
        yield Ends(end, torch.arange(len(ids), device=ids.device), ids.shape[1] - runs)


def _runs(ids: Tensor) -> Tensor | None:
    """(row,) how often each row has its last id at its end; None where they are not the same."""
    same = ids == ids[:1, -1:]
    runs = same.flip(1).long().cumprod(1).sum(1)
    return None if bool((runs == 0).any()) or bool((runs == ids.shape[1]).any()) else runs


def _next_asked(experiment: Experiment, key: str, ids: Tensor, ends: Ends) -> UnaskedEnd | None:
    """Where outputs are asked for the id after the last one that each has read, but for the ends.

    The loss may have the key for what it asks, while another feeds it one place later. That one may
    have no end, and nothing to be asked for at its last place: the code must call the id an end.
    """
    for width in (ids.shape[1], ids.shape[1] - 1):
        found = asked(experiment, (len(ids), width), int(ids[:, 1:].max()))
        if found is None:
            continue
        each = found.wants(key, alive(experiment).shown[found.index].site, ids)
        count = _left_out(each, ends)
        if not count or each.ahead is None:
            continue
        own = _behind(experiment, key, found.index, each.asked)
        called = _is_called_end(experiment, each, ends.end)
        behind = own
        if own is None and called and ends.end >= 0:
            fed = (k for k, e in experiment.tensors.items() if _is_before(e, ids))
            reads = (_behind(experiment, k, found.index, each.asked) for k in fed)
            behind = next((1 + by for by in reads if by is not None), None)
        if behind is None or each.ahead + behind != 1:
            return None
        sure = called or ends.kept is not None
        return UnaskedEnd(key, ends, count, _blanked(experiment, each, ends), sure)
    return None


def _behind(experiment: Experiment, key: str, index: int, of: Tensor) -> int | None:
    """How many places after an id the first output stands that moves with it; None without one."""
    middle = of.shape[1] // 2
    change = moved(experiment, key, index, middle)
    lines = None if change is None else lines_of(change, tuple(of.shape))
    if lines is None:
        return None
    felt = (lines.amax((0, 2)) > ROUNDING * lines.max()).nonzero().flatten()
    return int(felt[0]) - middle if len(felt) else None


def _is_before(other: Tensor, ids: Tensor) -> bool:
    """Whether it holds the same ids one place later, but for what pads them."""
    if other.shape != ids.shape or other.is_floating_point() or torch.equal(other, ids):
        return False
    real = ids[:, :-1] != ids[:1, -1:]
    return bool(real.any()) and bool((other[:, 1:] == ids[:, :-1])[real].all())


def _left_out(each: Wanted, ends: Ends) -> int:
    """How many rows are scored up to the id before their end; 0 where any is not, or it is well."""
    if each.ahead is None:
        return 0
    at = ends.places - each.ahead
    some = (at > 0) & (at < each.scored.shape[1]) & each.scored[ends.rows].any(1)
    rows, at = ends.rows[some], at[some]
    if len(rows) < 2 or bool((each.scored & (each.asked == ends.end)).any()):
        return 0
    if bool(each.scored[rows, at].any()) or not bool(each.scored[rows, at - 1].all()):
        return 0
    last, lengths = each.asked[rows, at - 1], each.scored[rows].sum(1)
    return len(rows) if len(last.unique()) > 1 and len(lengths.unique()) > 1 else 0


def _is_called_end(experiment: Experiment, each: Wanted, end: int) -> bool:
    """Whether the code calls the id an end; or, where it is not known, one that is never asked."""
    called, known = ends_called(experiment.subject), set(each.asked[each.scored].tolist())
    return end in called if end >= 0 else bool(called) and not called & known


def _blanked(experiment: Experiment, each: Wanted, ends: Ends) -> str | None:
    """The labels that hold one number below all ids where the end should be asked for."""
    for key in experiment.targets:
        labels = experiment.tensors[key]
        if labels.ndim != 2 or len(labels) != len(each.ids) or labels.is_floating_point():
            continue
        for places in (ends.places, ends.places - (each.ahead or 0)):
            inside = (places >= 0) & (places < labels.shape[1])
            held = labels[ends.rows[inside], places[inside]]
            if len(held) and bool((held == held[0]).all()) and int(held[0]) < 0:
                return key
    return None
