"""Which tokens units are said to read: by `Reads`, by names of indices, or by masks of spans."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.layout import Reads
from probes.reading.counted import counted

STARTS = {"start", "starts", "begin", "begins"}
ENDS = {"end", "ends", "stop", "stops"}
SPANS = {"span", "spans", "offset", "offsets", "range", "ranges"}
PLACES = {"position", "positions", "pos", "index", "indices", "idx", "idxs", "pointer", "pointers"}
PLACES |= {"anchor", "anchors", "place", "places", "pieces", "offset", "offsets"}


@dataclass(frozen=True)
class Spans:
    """What every unit is said to read.

    reads: the declaration, or what it would be. lead: how many axes the units have, samples
    first. shared: how many of them the tokens have as well. tokens: (lead, token) boolean, the
    token axes as one. end: whether the last index belongs to the span; None where that is not
    said, and other holds the spans as they are without it. counted: units are told by lengths.
    beside: of those that separators part, what stands just before and after each and belongs to
    none. guessed: the line that would declare it; None where it is declared.
    """

    reads: Reads
    shared: int
    tokens: Tensor
    end: bool | None = None
    other: Tensor | None = None
    guessed: str | None = None
    counted: bool = False
    beside: Tensor | None = None

    @property
    def lead(self) -> tuple[int, ...]:
        """How many units there are, by axis, samples first."""
        return tuple(self.tokens.shape[:-1])


def spans(experiment: Experiment) -> Iterator[Spans]:
    """The declared ones; without any, those that names of index tensors tell."""
    declared = [each for each in experiment.declared.reads if each.rule in ("at", "span")]
    for each in declared:
        found = _declared(experiment, each)
        if found is not None:
            yield found
    if not declared:
        yield from _guessed(experiment)


def _declared(experiment: Experiment, reads: Reads) -> Spans | None:
    of = experiment.tensors.get(reads.of)
    keys = [experiment.tensors[key] for key in reads.keys if key in experiment.tensors]
    if of is None or len(keys) != len(reads.keys):
        return None
    shared = _shared(experiment, reads)
    for each in counted(experiment) if reads.rule == "span" and reads.keys[1:] == () else ():
        if (each.of, each.lengths) == (reads.of, reads.keys[0]):
            return Spans(reads, 1, each.tokens, counted=True, beside=each.beside)
    return _spans(experiment, reads, keys, of, shared)


def _shared(experiment: Experiment, reads: Reads) -> int:
    """How many first axes tokens and positions have in common: samples, and turns if named."""
    axes = experiment.layout.axes.get(reads.of, ()), experiment.layout.axes.get(reads.keys[0], ())
    names = [one for one, two in zip(*axes, strict=False) if one == two]
    return 2 if names[:2] == ["sample", "turn"] else 1


def _spans(
    experiment: Experiment, reads: Reads, keys: Sequence[Tensor], of: Tensor, shared: int
) -> Spans | None:
    width = prod(_token_axes(of, shared))
    first = keys[0]
    if len(first) != len(of) or first.is_floating_point():
        return None
    if len(keys) == 2 and keys[1].dtype is not torch.bool and keys[1].shape == first.shape:
        return _of_ends(experiment, reads, first, keys[1], width, shared)
    if len(keys) == 1 and first.ndim > 1 and first.shape[-1] == 2 and _ordered(first):
        return _of_ends(experiment, reads, first[..., 0], first[..., 1], width, shared)
    if first.ndim > 1 and first.shape[-1] == width and int(first.max()) <= 1:
        return Spans(reads, shared, first != 0)
    there = keys[1] != 0 if len(keys) == 2 and keys[1].shape == first.shape else None
    units = first.ndim > shared + 1 or there is not None
    places = first if units else first[..., None]
    if there is None:
        there = torch.ones_like(places, dtype=torch.bool)
    there = there & (places >= 0) & (places < width)
    tokens = torch.zeros(*places.shape[:-1], width, dtype=torch.bool, device=first.device)
    tokens.scatter_(-1, places.clamp(0, width - 1).long(), there)
    return Spans(reads, shared, _at_least(tokens, places, there))


def _at_least(tokens: Tensor, places: Tensor, there: Tensor) -> Tensor:
    """A place that is there stays, whatever padding was written over it."""
    for column in range(places.shape[-1]):
        at = places[..., column : column + 1].clamp(0, tokens.shape[-1] - 1).long()
        here = tokens.gather(-1, at) | there[..., column : column + 1]
        tokens.scatter_(-1, at, here)
    return tokens


def _token_axes(of: Tensor, shared: int) -> tuple[int, ...]:
    return tuple(of.shape[shared:-1]) if of.is_floating_point() else tuple(of.shape[shared:])


def _ordered(pairs: Tensor) -> bool:
    return bool((pairs[..., 0] <= pairs[..., 1]).all()) and bool(
        (pairs[..., 0] < pairs[..., 1]).any()
    )


def _of_ends(
    experiment: Experiment, reads: Reads, starts: Tensor, ends: Tensor, width: int, shared: int
) -> Spans | None:
    there = (starts >= 0) & (ends >= starts) & (starts < width)
    for mask in experiment.masks:
        if mask.keep.shape == starts.shape:
            there = there & mask.keep
    at = torch.arange(width, device=starts.device)
    before = at >= starts[..., None]
    outer = before & (at <= ends[..., None]) & there[..., None]
    inner = before & (at < ends[..., None]) & there[..., None]
    with_end = _with_end(starts, ends, there, width)
    if with_end is not None:
        return Spans(reads, shared, outer if with_end else inner, with_end)
    return Spans(reads, shared, outer, None, inner)


def _with_end(starts: Tensor, ends: Tensor, there: Tensor, width: int) -> bool | None:
    """Whether an end is the last index itself: by ends at the edge, and how spans adjoin."""
    if bool((ends[there] >= width).any()):
        return False
    alone = int((there & (starts == ends) & (starts > 0)).sum())
    if starts.ndim > 1 and starts.shape[-1] > 1:
        both = there[..., 1:] & there[..., :-1]
        apart = (starts[..., 1:] - ends[..., :-1])[both]
        if len(apart) and bool((apart >= 0).all()) and bool((apart == 0).any()):
            return None if alone else False
    return True if alone > 1 else None


def _guessed(experiment: Experiment) -> Iterator[Spans]:
    """Integers called by what indices are called, over the first key of tokens that is longer.

    And masks that give each unit a run of tokens of its own, whatever they are called, and lengths
    of units that separators part.
    """
    used = {m.key for m in experiment.layout.masks} | {x.key for x in experiment.layout.labels}
    used |= set(experiment.targets) | {each.lengths for each in counted(experiment)}
    found = {
        key: tensor
        for key, tensor in experiment.tensors.items()
        if key not in used and not tensor.is_floating_point() and tensor.ndim and tensor.numel()
    }
    named = _named(found)  # ids may be called by such names as well, and fit no other key
    told = [each for each in named if _tokens(experiment, used | {*each}, found[each[0]])]
    known = {key for each in told for key in each}
    told += _by_values({key: each for key, each in found.items() if key not in known})
    known |= {key for each in told for key in each}
    for keys in told:
        first = found[keys[0]]
        of = _tokens(experiment, used | known, first)
        if of is None or tuple(first.shape) == tuple(experiment.tensors[of].shape[: first.ndim]):
            continue
        units = first.ndim > 1 or len(keys) > 1
        reads = Reads("output", of, "span" if units else "at", keys)
        tensors = [found[key] for key in keys]
        made = _spans(experiment, reads, tensors, experiment.tensors[of], 1)
        if made is not None and bool(made.tokens.any()):
            yield replace(made, guessed=f"reads=({reads!r},)")
    for key, tensor in found.items():
        of = _masked(experiment, used, tensor)
        if of is not None:
            reads = Reads("output", of, "span", (key,))
            yield Spans(reads, 1, tensor != 0, guessed=f"reads=({reads!r},)")
    for each in counted(experiment):
        reads = Reads("output", each.of, "span", (each.lengths,))
        line = f"reads=({reads!r},)"
        yield Spans(reads, 1, each.tokens, guessed=line, counted=True, beside=each.beside)


def _masked(experiment: Experiment, used: set[str], mask: Tensor) -> str | None:
    """The ids over which a mask (sample, unit, token) lays a span of each unit's own, or none."""
    if (
        mask.ndim != 3
        or mask.shape[1] in (1, mask.shape[2])
        or not bool(((mask == 0) | (mask == 1)).all())
    ):
        return None
    there = mask != 0
    starts = (there & ~there.roll(1, -1)).sum(-1) + (there[..., 0] & there[..., -1])
    apart = bool((starts <= 1).all()) and bool((there.sum(1) <= 1).all())
    if not apart or int((starts > 0).sum(1).min()) < 2:
        return None
    for key, tensor in experiment.tensors.items():
        ids = tensor.ndim == 2 and not tensor.is_floating_point() and tensor.dtype is not torch.bool
        if ids and key not in used and tensor.shape == (len(mask), mask.shape[2]):
            return key
    return None


def _named(found: Mapping[str, Tensor]) -> Iterator[tuple[str, ...]]:
    """Pairs of starts and ends, spans, and places; a place only once."""
    words = {key: set(re.split(r"[_.\d]+", key.lower())) for key in found}
    ends = {key for key in found if words[key] & ENDS}
    for key, tensor in found.items():
        if words[key] & STARTS:
            mates = [e for e in ends if words[e] - ENDS == words[key] - STARTS]
            mates = [e for e in mates if found[e].shape == tensor.shape]
            yield (key, *mates[:1])
        elif words[key] & ENDS:
            mates = [s for s in found if words[s] - STARTS == words[key] - ENDS and s != key]
            if not any(words[s] & STARTS for s in mates):
                yield (key,)
        elif words[key] & SPANS and tensor.ndim > 1 and tensor.shape[-1] == 2:
            yield (key,)
        elif words[key] & PLACES:
            there = [
                k
                for k, t in found.items()
                if k != key and t.shape == tensor.shape and t.dtype is torch.bool
            ]
            yield (key, there[0]) if len(there) == 1 and tensor.ndim > 2 else (key,)


def _by_values(found: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Pairs of what begins and ends, whatever they are called: spans in order that are apart."""
    fits = {k: t for k, t in found.items() if t.ndim == 2 and t.shape[1] > 1}
    for one, starts in fits.items():
        for two, ends in fits.items():
            if starts.shape != ends.shape or torch.bool in (starts.dtype, ends.dtype):
                continue
            there = starts < ends
            both = there[:, 1:] & there[:, :-1]
            apart = (starts[:, 1:] >= ends[:, :-1])[both]
            if bool((starts <= ends).all()) and len(apart) > 1 and bool(apart.all()):
                yield one, two
                return


def _tokens(experiment: Experiment, used: set[str], index: Tensor) -> str | None:
    """The first key of tokens that every index fits."""
    for key, tensor in experiment.tensors.items():
        tokens = tensor.ndim == 2 if not tensor.is_floating_point() else tensor.ndim == 3
        if key in used or not tokens or len(tensor) != len(index):
            continue
        if tensor.dtype is not torch.bool and int(index.max()) <= tensor.shape[1]:
            return key
    return None
