"""What every figure of a report is: a picture, its finding in words, its numbers in a table."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

ROWS = 120  # of a table under a figure
FRAME = 700  # characters of a figure's markup beside what it holds


@dataclass(frozen=True, slots=True)
class Table:
    """Numbers under a figure. said: what was left out, None where nothing was.

    sortable: whether a click on a column's name puts its rows in order.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    said: str | None = None
    sortable: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture in a report.

    id: its address. title: what it shows. alt: what it says, in words, for who cannot see it.
    svg: markup that we made; prose where it is text, which reads itself. notes: how to read it,
    and what was left out. badness: how much it deserves a look, beside its like.
    """

    id: str
    title: str
    alt: str
    svg: Markup
    table: Table
    notes: tuple[str, ...] = ()
    prose: bool = False
    badness: float = 0.0

    @property
    def size(self) -> int:
        """Characters that it takes in the page, about."""
        cells = sum(8 + sum(len(cell) + 4 for cell in row) for row in self.table.rows)
        return FRAME + len(self.svg) + len(self.alt) + sum(map(len, self.notes)) + cells


def thinned(columns: Sequence[str], rows: Sequence[tuple[str, ...]], most: int = ROWS) -> Table:
    """The table; every so many rows, first and last among them, where there are too many."""
    if len(rows) <= most:
        return Table(tuple(columns), tuple(rows))
    chosen = sorted({round(place * (len(rows) - 1) / (most - 1)) for place in range(most)})
    said = f"{len(chosen)} of {len(rows)} rows, evenly spaced; all of them are in the run folder"
    return Table(tuple(columns), tuple(rows[place] for place in chosen), said)


def number(value: float | int | str | None) -> str:
    """Four significant digits; `NaN`, `inf` and `-inf` by name; a dash where there is nothing."""
    if value is None:
        return "–"  # noqa: RUF001  # a dash, as typeset
    if isinstance(value, float):
        if math.isnan(value):
            return "NaN"
        return f"{value:.4g}"
    return str(value)


def identifier(text: str) -> str:
    """The text as an address within a page."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-") or "item"


def listed(names: Iterable[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    every = [f"`{name}`" for name in names]
    more = len(every) - most
    return ", ".join(every[:most]) + (f" and {more} more" if more > 0 else "")
