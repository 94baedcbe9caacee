"""What was alive in memory when a step ran out of it: bars by module and pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from reports.figures.figure import Figure, Table, identifier
from reports.figures.svg import picture, rectangle, short, text

ROWS, TALL, LABELS, WIDE = 24, 20.0, 330.0, 960.0
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True, slots=True)
class Held:
    """So many bytes, by whom."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Memory:
    """The fullest moment of a step: size in bytes, by site and pass, and the largest tensors."""

    part: str
    step: int | None
    size: int
    by_site: tuple[Held, ...]
    largest: tuple[Held, ...]
    of: str = ""


def draw(memory: Memory) -> Figure:
    """The figure of a memory with at least one entry."""
    sites, tensors = memory.by_site[:ROWS], memory.largest[:ROWS]
    left = len(memory.by_site) - len(sites)
    where = f" at step {memory.step}" if memory.step is not None else ""
    rows = [("site", each.name, in_words(each.size), str(each.size)) for each in memory.by_site]
    rows += [("tensor", each.name, in_words(each.size), str(each.size)) for each in memory.largest]
    first = (memory.by_site or memory.largest)[0]
    return Figure(
        id=identifier(f"memory-{memory.part}"),
        title=f"Memory{where}{memory.of}",
        alt=f"{in_words(memory.size)} were alive; most of it, {in_words(first.size)}, by "
        f"`{first.name}`.",
        svg=_bars((*sites, *tensors), len(sites)),
        table=Table(("kind", "name", "size", "bytes"), tuple(rows[:200])),
        notes=(
            "First by module and pass, then the largest tensors; lengths are to one scale.",
            *((f"{left} more sites stand in the table.",) if left else ()),
        ),
    )


def _bars(every: tuple[Held, ...], sites: int) -> Markup:
    longest = max(max(each.size for each in every), 1)
    height = len(every) * TALL + 16
    return picture(WIDE, height, _marks(every, sites, longest), "cells")


def _marks(every: tuple[Held, ...], sites: int, longest: int) -> Iterator[Markup]:
    for place, each in enumerate(every):
        y = place * TALL + (12 if place >= sites else 0)
        wide = (WIDE - LABELS - 90) * each.size / longest
        yield text(LABELS - 8, y + 13, short(each.name, 52), "end")
        yield rectangle(
            LABELS, y + 3, max(wide, 1), TALL - 7, "bar" if place < sites else "bar two"
        )
        yield text(LABELS + wide + 8, y + 13, in_words(each.size))


def in_words(size: int) -> str:
    """`1.5 GiB`."""
    number, unit = float(size), 0
    while number >= 1024 and unit < len(UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{number:.3g} {UNITS[unit]}" if unit else f"{size} bytes"
