"""How spans lie to the separator that stands between the units they are of: by the ids alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

import torch

from probes.experiment import Experiment, with_leaf
from probes.layout import Reads
from probes.reading.rows import looked
from probes.vary import vary

ROWS = 256  # samples that are looked at
LEAST = 5  # samples with three units or more
SHARE = 0.98  # of the spans that a pattern holds for


@dataclass(frozen=True)
class Drift:
    """Spans that lie so many tokens from the units between separators.

    separator: the id that stands once between two units. by: tokens that the first span ends after
    its unit; grows: tokens by which that grows from unit to unit. count: how many starts and ends
    it holds for, of `of`.
    """

    separator: int
    by: int
    grows: int
    count: int
    of: int


@dataclass(frozen=True)
class _Sample:
    """Ids, and spans in the order of their units, [start, end)."""

    ids: list[int]
    spans: list[tuple[int, int]]


Gap = tuple[int, int]  # the number of a unit, and how many tokens after it a span's edge stands


def drift(experiment: Experiment, reads: Reads, with_end: bool) -> Drift | None:
    """How the spans of nearly all samples lie wrong to one separator; None where they do not.

    reads: of a key of ids, by keys of starts and ends. with_end: the last index is read as well.
    Spans that hold the separator on either side, or leave out what a unit begins or ends with, are
    as they should be.
    """
    samples = list(islice(_samples(experiment, reads, with_end), ROWS))
    if sum(len(each.spans) > 2 for each in samples) < LEAST:
        return None
    found = list[Drift]()
    for separator in sorted(shared_by_units([(each.ids, len(each.spans)) for each in samples])):
        for skip in (0, 1):
            gaps = _gaps(samples, separator, skip)
            if gaps is not None:
                found += _pattern(separator, *gaps)
    is_well = any(each.by == 0 == each.grows for each in found)
    return None if is_well or not found else found[0]


def _samples(experiment: Experiment, reads: Reads, with_end: bool) -> Iterator[_Sample]:
    for batch in looked(experiment):
        if reads.of not in batch or any(key not in batch for key in reads.keys):
            continue
        keys = [batch[key] for key in reads.keys]
        pair = keys if len(keys) == 2 else [keys[0][..., 0], keys[0][..., 1]]
        if any(each.ndim != 2 or len(each) != len(batch[reads.of]) for each in pair):
            return
        for row, starts, ends in zip(batch[reads.of], *pair, strict=True):
            spans = _spans(starts.tolist(), ends.tolist(), with_end)
            if spans:
                yield _Sample(row.tolist(), spans)


def _spans(starts: Sequence[int], ends: Sequence[int], with_end: bool) -> list[tuple[int, int]]:
    """Those before the first that is padding; none where they do not go on in order."""
    spans = [(low, high + with_end) for low, high in zip(starts, ends, strict=True)]
    count = len(spans)
    while count and _is_nothing(spans, count - 1):
        count -= 1
    spans = spans[:count]
    in_order = all(two[0] > one[0] for one, two in pairwise(spans))
    return spans if in_order and all(0 <= low < high for low, high in spans) else []


def _is_nothing(spans: Sequence[tuple[int, int]], at: int) -> bool:
    """Whether a span is padding: empty, before the ids, or at the front and behind others."""
    low, high = spans[at]
    return low >= high or low < 0 or (at > 0 and low == 0)


def shared_by_units(rows: Sequence[tuple[Sequence[int], int]]) -> set[int]:
    """Ids that nearly every row has as often as units, or once more or less.

    rows: ids, and how many units stand among them.
    """
    fits = Counter[int]()
    for ids, units in rows:
        counts = Counter(ids)
        fits.update(one for one, n in counts.items() if abs(n - units) <= 1)
    return {one for one, n in fits.items() if n >= SHARE * len(rows)}


def _gaps(
    samples: Sequence[_Sample], separator: int, skip: int
) -> tuple[list[Gap], list[Gap]] | None:
    """Of all spans, how far they start and end after their units; None where these do not fit.

    skip: how many separators stand before the first unit.
    """
    starts, ends = list[Gap](), list[Gap]()
    lengths, inner = set[int](), 0
    for each in samples:
        places = [i for i, one in enumerate(each.ids) if one == separator][skip:]
        count = len(each.spans)
        if len(places) not in (count - 1, count):
            continue
        starts += [(j, each.spans[j][0] - places[j - 1] - 1) for j in range(1, count)]
        ends += [(j, each.spans[j][1] - place) for j, place in enumerate(places)]
        for j in range(1, len(places)):
            lengths.add(places[j] - places[j - 1])
            inner += 1
    if len(lengths) < 2 or inner < LEAST:
        return None  # of units that are all as long, one place is like another
    return starts, ends


def _pattern(separator: int, starts: Sequence[Gap], ends: Sequence[Gap]) -> Iterator[Drift]:
    """How nearly all of them lie to their units, by 0 where they lie well; none where unlike."""
    of = len(starts) + len(ends)
    for grows in (0, -1, 1):
        (low, few), (high, many) = (_commonest(each, grows) for each in (starts, ends))
        if few < SHARE * len(starts) or many < SHARE * len(ends):
            continue
        moved = high if grows or low == high else 0
        yield Drift(separator, moved, grows, few + many, of)
        return


def _commonest(gaps: Sequence[Gap], grows: int) -> tuple[int, int]:
    """The commonest gap but for what grows from unit to unit, and how many have it."""
    ((by, count),) = Counter(gap - grows * unit for unit, gap in gaps).most_common(1)
    return by, count


def reads_on(experiment: Experiment, key: str) -> bool:
    """Whether a row by the places of a key of ids moves with an id that stands after it."""
    ids = experiment.tensors[key]
    middle = ids.shape[1] // 2
    only = torch.zeros_like(ids, dtype=torch.bool)
    only[:, middle] = True
    other = vary(ids, only)
    if other is None:
        return False
    ran = experiment.evaluate(with_leaf(experiment.batch, key, other))
    for one, two in zip(experiment.evaluated.ran.events, ran.events, strict=False):
        if one.value is None or two.value is None or one.value.shape != two.value.shape:
            continue
        rows = one.value.ndim == 3 and one.value.shape[:2] == ids.shape
        if rows and bool((one.value != two.value)[:, :middle].any()):
            return True
    return False
