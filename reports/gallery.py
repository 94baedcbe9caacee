"""Which attention maps a page shows, small and large, within its room."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from reports.figures.attention import Attention, heads, trimmed
from reports.figures.attention_map import draw, indices, summary
from reports.figures.figure import Figure, Table, identifier
from reports.figures.png import packed

ROOM, ALONE = 360_000, 3_400_000  # characters: beside other things, and of a page of their own
SIDES = (64, 48, 32, 16)  # cells of a small picture, the first that leaves room for large ones
MOST = 1500  # rows of head summaries in a page
SAMPLED = 8  # maps by whose small pictures the size of all is told
MISSES = 4  # large pictures that find no room before no other is tried
FURNITURE = 6_000  # characters of a large picture beside its cells


@dataclass(frozen=True, slots=True)
class Group:
    """The maps of one sample, with what every head does."""

    title: str
    figures: tuple[Figure, ...]
    heads: Table


@dataclass(frozen=True, slots=True)
class Gallery:
    """What is shown. left_out: what is said of the others. names: of rows and columns, for hover.

    hatched: whether any of it is padding or masked.

    `names` is lists of names, and which of them are the queries and keys of which figure.
    """

    groups: tuple[Group, ...]
    left_out: str | None
    names: dict[str, object]
    hatched: bool


def gallery(maps: Sequence[Attention], room: int = ROOM, every: bool = False) -> Gallery:
    """The maps that fit: every head small, the ones that matter large.

    every: whether each head was asked for, so that all are large for as long as there is room.

    Those that look from one kind of thing at another stand before the others of their sample.
    The worst is drawn first, then the first and the last, then such maps, then all in order. Most
    of the padding at an end is cut off.
    """
    maps = [trimmed(map_) for map_ in maps]
    samples = list(dict.fromkeys(map_.sample for map_ in maps))
    maps = sorted(maps, key=lambda map_: (samples.index(map_.sample), not map_.crosses))
    sizes = ((side, _small(maps, side)) for side in SIDES)
    side, small = next((each for each in sizes if each[1] < room / 2), (SIDES[-1], 0.0))
    places, large = _chosen(maps, small or _small(maps, side), room, every)
    rows = 120 if len(places) <= 12 else 24
    drawn = {at: draw(maps[at], large.get(at, []), side, rows) for at in places}
    groups = tuple(
        Group(sample, tuple(drawn[at] for at in group), _heads(maps, sample))
        for sample, group in groupby(places, key=lambda at: maps[at].sample)
    )
    return Gallery(
        groups, _left_out(len(places), len(maps)), _names(maps, large), any(map(_hatched, maps))
    )


def _hatched(map_: Attention) -> bool:
    parts = (map_.query_padding, map_.masked, map_.key_padding, map_.hidden)
    return any(bool(part.any()) for part in parts)


def _left_out(drawn: int, count: int) -> str | None:
    if drawn == count:
        return None
    return (
        f"{drawn} of {count} maps are drawn, the worst, the first and the last among them; all of "
        "them are arrays in the run folder."
    )


def _small(maps: Sequence[Attention], side: int) -> float:
    """Characters that all small pictures take, by some of them, evenly spaced."""
    sizes = [draw(each, [], side, 24).size for each in maps[:: -(-len(maps) // SAMPLED) or 1]]
    return len(maps) * sum(sizes) / len(sizes) if sizes else 0.0


def _chosen(
    maps: Sequence[Attention], small: float, room: int, every: bool
) -> tuple[list[int], dict[int, list[int]]]:
    """Places of the maps to draw, in order, and the heads that are drawn large."""
    worst = max(range(len(maps)), key=lambda at: maps[at].badness, default=0)
    crossing = [at for at, map_ in enumerate(maps) if map_.crosses]
    order = dict.fromkeys([worst, 0, len(maps) - 1, *crossing, *range(len(maps))] if maps else [])
    size: float = 0
    places: list[int] = []
    large: dict[int, list[int]] = {}
    misses = 0
    for at in order:  # small pictures with the one large one that matters most, where it fits
        size += small / len(maps)
        if size > room and places:
            break
        places.append(at)
    for at, head in _mattering(maps, places, every):
        cost = FURNITURE + packed(indices(maps[at].weights[head]))
        if large and size + cost > room:
            misses += 1
            if misses == MISSES:  # nothing of this size will fit
                break
            continue
        large.setdefault(at, []).append(head)
        size += cost
    return sorted(places), large


def _mattering(
    maps: Sequence[Attention], places: Sequence[int], every: bool
) -> Iterator[tuple[int, int]]:
    """Maps and heads worth a large picture, the most first: each map's worst, then the others."""
    own = {at: _ranked(maps[at], every) for at in places}
    for turn in range(max(map(len, own.values()), default=0)):
        for at in places:
            if turn < len(own[at]):
                yield at, own[at][turn]


def _ranked(map_: Attention, every: bool) -> list[int]:
    """The worst, then the sharpest; none where all are nearly even; all where they were asked."""
    if map_.flat and not every:
        return []
    more = range(len(map_.heads)) if every else ()
    return list(dict.fromkeys([map_.worst, map_.sharpest, *more]))


def _heads(maps: Sequence[Attention], sample: str) -> Table:
    own = [head for map_ in maps if map_.sample == sample for head in heads(map_)]
    own.sort(key=lambda head: head.layer)
    table = summary(own[:MOST])
    said = f"{MOST} of {len(own)} heads" if len(own) > MOST else None
    return Table(table.columns, table.rows, said, sortable=True)


def _names(maps: Sequence[Attention], large: dict[int, list[int]]) -> dict[str, object]:
    lists: dict[tuple[str, ...], int] = {}
    which = {}
    for at in sorted(large):
        pair = (maps[at].queries, maps[at].keys)
        which[identifier(maps[at].name)] = [lists.setdefault(each, len(lists)) for each in pair]
    return {"lists": [list(each) for each in lists], "maps": which}
