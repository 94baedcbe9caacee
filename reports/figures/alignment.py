"""Which entries a unit's vector depends on, beside those that its span names."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from reports.figures.figure import Figure, identifier, thinned
from reports.figures.svg import picture, rectangle, text

Ends = npt.NDArray[np.int64]
PANELS, WIDE, LABELS, TALL = 4, 900.0, 44.0, 11.0
TALLEST = 60  # rows of a panel


@dataclass(frozen=True, slots=True)
class Alignment:
    """Spans as declared and as read: (..., row, 2) first and last entry, -1 where there is none.

    axes: of all but the last. of: the batch key whose entries they are.
    """

    name: str
    axes: tuple[str, ...]
    of: str
    declared: Ends
    read: Ends

    @property
    def apart(self) -> npt.NDArray[np.bool_]:
        """(..., row) whether both are there and differ."""
        there = (self.declared >= 0).all(-1) & (self.read >= 0).all(-1)
        out: npt.NDArray[np.bool_] = there & (self.declared != self.read).any(-1)
        return out

    @property
    def unseen(self) -> int:
        """Rows with a declared span of which no entry was seen to matter, as of padding."""
        return int(((self.declared >= 0).all(-1) & (self.read < 0).any(-1)).sum())


def draw(alignment: Alignment) -> Figure:
    """The figure of an alignment with at least one row."""
    apart = alignment.apart
    seen: npt.NDArray[np.bool_] = np.asarray((alignment.read >= 0).all(-1))
    lead = apart.shape[:-1]
    order = sorted(
        np.ndindex(*lead), key=lambda at: (-int(apart[at].sum()), -int(seen[at].sum()), at)
    )
    shown = sorted([at for at in order if _there(alignment, at)][:PANELS])
    notes = [
        "Outlined: the span that is declared; filled: what the vector depends on, by experiment. "
        "Where they differ the row is marked with a cross, and the filled bar is red."
    ]
    if len(shown) < math.prod(lead):
        notes.append(f"{len(shown)} of {math.prod(lead)} pictures are drawn, the worst among them.")
    return Figure(
        id=identifier(f"array-{alignment.name}"),
        title=f"Spans over `{alignment.of}`, declared and read".replace("`", ""),
        alt=_said(alignment),
        svg=Markup("").join(_panel(alignment, at) for at in shown),
        table=thinned([*alignment.axes, "declared", "read", "remark"], list(_rows(alignment))),
        notes=tuple(notes),
        badness=float(apart.sum()),
    )


def _there(alignment: Alignment, at: tuple[int, ...]) -> bool:
    return bool((alignment.declared[at] >= 0).any() or (alignment.read[at] >= 0).any())


def _panel(alignment: Alignment, at: tuple[int, ...]) -> Markup:
    declared, read = alignment.declared[at], alignment.read[at]  # (row, 2)
    rows = [row for row in range(len(declared)) if max(*declared[row], *read[row]) >= 0][:TALLEST]
    last = int(max(alignment.declared.max(), alignment.read.max(), 0)) + 1
    side = min(14.0, (WIDE - LABELS - 20) / last)
    words = ", ".join(f"{axis} {place}" for axis, place in zip(alignment.axes, at, strict=False))
    marks = [
        text(0, 12, words),
        text(LABELS + 140, 12, f"{alignment.of} 0 to {last - 1} →", "axis"),
    ]
    for line, row in enumerate(rows):
        y = 20 + line * TALL
        differ = bool(alignment.apart[at][row])
        marks.append(text(LABELS - 8, y + 9, f"{'× ' if differ else ''}{row}", "end"))  # noqa: RUF001
        marks += list(_bar(read[row], side, y + 2, TALL - 4, "bar bad" if differ else "bar"))
        marks += list(_bar(declared[row], side, y + 0.5, TALL - 1, "span"))
    return picture(LABELS + last * side + 10, 26 + len(rows) * TALL, marks, "cells")


def _bar(ends: Ends, side: float, y: float, tall: float, kind: str) -> Iterator[Markup]:
    first, last = ends.tolist()
    if first >= 0:
        yield rectangle(LABELS + first * side, y, (last - first + 1) * side, tall, kind)


def _said(alignment: Alignment) -> str:
    apart = alignment.apart
    count = int(((alignment.declared >= 0).all(-1) & (alignment.read >= 0).all(-1)).sum())
    unseen = f" Of {alignment.unseen} more nothing was seen to matter." if alignment.unseen else ""
    if not apart.any():
        return f"All {count} spans that were seen are read where they are declared.{unseen}"
    place = tuple(int(each) for each in np.argwhere(apart)[0])
    at = ", ".join(f"{axis} {one}" for axis, one in zip(alignment.axes, place, strict=True))
    return (
        f"{int(apart.sum())} of {count} spans are read elsewhere than declared, first at {at}: "
        f"declared {_span(alignment.declared[place])}, read {_span(alignment.read[place])}.{unseen}"
    )


def _span(ends: Ends) -> str:
    first, last = ends.tolist()
    return "nowhere" if first < 0 else f"{first} to {last}"


def _rows(alignment: Alignment) -> Iterator[tuple[str, ...]]:
    apart = alignment.apart
    for place in sorted(np.ndindex(*apart.shape), key=lambda at: (not apart[at], at)):
        declared, read = alignment.declared[place], alignment.read[place]
        if max(*declared.tolist(), *read.tolist()) >= 0:
            remark = "nothing seen" if declared[0] >= 0 > read[0] else ""
            remark = "differs" if apart[place] else remark
            yield (*map(str, place), _span(declared), _span(read), remark)
