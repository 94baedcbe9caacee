"""An array that a check kept, whatever its axes: bars of one axis, else pictures of two each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from reports.figures.figure import Figure, identifier, number, thinned
from reports.figures.png import Palette, data_uri
from reports.figures.svg import apart, blocks, image, picture, rectangle, short, text

Numbers = npt.NDArray[np.float64]
PANELS, CELLS, WIDE, HATCHED = 12, 160, 940.0, 400
BARS, NAME, LONG, TALL = 60, 46, 380.0, 20.0
ODD = 255  # the palette's last colour


@dataclass(frozen=True, slots=True)
class Measured:
    """Numbers or truths with named axes.

    values: at least one axis and one entry. labels: axis to the names of its entries, where they
    have some. about: what else the check said of them. what: what was measured, in words.
    """

    name: str
    title: str
    values: npt.NDArray[Any]
    axes: tuple[str, ...]
    labels: Mapping[str, tuple[str, ...]]
    about: Mapping[str, str]
    what: str = ""

    def entry(self, axis: int, place: int) -> str:
        """How a place of the axis is called; its number where it has no name."""
        names = self.labels.get(self.axes[axis], ())
        return names[place] if len(names) == self.values.shape[axis] else str(place)


def draw(measured: Measured) -> Figure:
    """The figure of an array."""
    told = tuple(f"{key}: {words}." for key, words in measured.about.items())
    bars = measured.values.ndim == 1 and len(measured.values) <= BARS
    drawn, notes = (_bars(measured), ()) if bars else _cells(measured)
    return Figure(
        id=identifier(f"array-{measured.name}"),
        title=measured.title,
        alt=_said(measured),
        svg=drawn,
        table=thinned(*_rows(measured)),
        notes=(*notes, *told),
    )


def _bars(measured: Measured) -> Markup:
    """A bar and its number for every entry; what is not finite is a hatched bar, by its name."""
    values = measured.values.astype(np.float64)
    finite = values[np.isfinite(values)]
    longest = float(np.abs(finite).max(initial=0)) or 1.0
    names = apart([measured.entry(0, place) for place in range(len(values))], NAME)
    left = 14 + 6.2 * max(map(len, names))
    marks = []
    for place, (name, value) in enumerate(zip(names, values.tolist(), strict=True)):
        y, odd = place * TALL, not math.isfinite(value)
        wide = 24.0 if odd else max(1.0, LONG * abs(value) / longest)
        kind = "bar bad" if odd else "bar against" if value < 0 else "bar"
        marks.append(text(left - 8, y + 13, name, "end"))
        marks.append(rectangle(left, y + 3, wide, TALL - 7, kind))
        if odd:
            marks.append(rectangle(left, y + 3, wide, TALL - 7, "odd"))
        marks.append(text(left + wide + 8, y + 13, _in_words(measured, place)))
    return picture(left + LONG + 90, len(values) * TALL + 6, marks, "cells")


def _in_words(measured: Measured, place: int) -> str:
    value = measured.values[place]
    if measured.values.dtype.kind in "iub":
        return str(value.item()) if value.dtype != bool else ("yes" if value else "no")
    return number(float(value))


def _cells(measured: Measured) -> tuple[Markup, tuple[str, ...]]:
    """Pictures of the last two axes, and how they are to be read."""
    shown, low, high = _scaled(measured)
    count = math.prod(shown.shape[:-2])
    notes = [f"Colour goes from {number(low)} to {number(high)}; the axes are {_axes(measured)}."]
    if count > PANELS:
        notes.append(f"{PANELS} of {count} pictures are drawn; the array is in the run folder.")
    if max(shown.shape[-2:]) > CELLS:
        notes.append(f"More than {CELLS} rows or columns are drawn by the maximum of neighbours.")
    return Markup("").join(_panels(measured, shown, (low, high))), tuple(notes)


def _axes(measured: Measured) -> str:
    pairs = zip(measured.axes, measured.values.shape, strict=True)
    return ", ".join(f"{axis} ({length})" for axis, length in pairs)


def _scaled(measured: Measured) -> tuple[Numbers, float, float]:
    """(..., row, column), and the least and the largest finite value."""
    values = measured.values.astype(np.float64)
    values = values.reshape((1,) * max(0, 2 - values.ndim) + values.shape)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return values, min(low, 0.0), high if high > min(low, 0.0) else min(low, 0.0) + 1


@cache
def palette() -> Palette:
    """From clear to full blue; the last colour is red, for what is not finite."""
    scale = np.tile([58, 124, 235, 0], (ODD, 1))
    scale[:, 3] = np.linspace(12, 255, ODD).round()
    return np.concatenate([scale, [[214, 40, 57, 255]]]).astype(np.uint8)


def _indices(values: Numbers, low: float, high: float) -> npt.NDArray[np.uint8]:
    finite = np.isfinite(values)
    scaled = (np.where(finite, values, low) - low) / (high - low) * (ODD - 1)
    return np.where(finite, np.clip(scaled, 0, ODD - 1).round(), ODD).astype(np.uint8)


def pooled(values: Numbers, most: int = CELLS) -> Numbers:
    """(row, column), neighbours as their maximum where there are more than can be drawn."""
    for axis in (0, 1):
        length = values.shape[axis]
        if length > most:
            edges = np.unique(np.linspace(0, length, most, endpoint=False).astype(int))
            with np.errstate(invalid="ignore"):  # NaN is the largest, so that none is lost
                values = np.maximum.reduceat(values, edges, axis=axis)
    return values


def _panels(measured: Measured, shown: Numbers, scale: tuple[float, float]) -> Iterator[Markup]:
    leading = shown.shape[:-2]
    for place in list(np.ndindex(*leading))[:PANELS]:
        yield _panel(measured, place, shown[place], scale)


def _panel(
    measured: Measured, place: tuple[int, ...], values: Numbers, scale: tuple[float, float]
) -> Markup:
    rows, columns = values.shape
    cells = pooled(values)
    deep = measured.values.ndim
    row_names = apart([measured.entry(deep - 2, i) for i in range(rows)], 24) if deep > 1 else [""]
    names = apart([measured.entry(deep - 1, i) for i in range(columns)], 24)
    head = ", ".join(
        f"{measured.axes[axis]} {measured.entry(axis, at)}" for axis, at in enumerate(place)
    ) if deep > 2 else ""  # fmt: skip
    axes = f"{measured.axes[-2]} ↓  {measured.axes[-1]} →" if deep > 1 else f"{measured.axes[0]} →"
    left = 24 + 6.2 * max(len(axes), *map(len, row_names))
    top = 30 + 4.6 * max(map(len, names))
    wide = min(18.0, max(3.0, (WIDE - left - 60) / columns))
    tall = min(18.0, max(3.0, 600 / rows))
    high, broad = rows * tall, columns * wide
    marks = [
        text(0, 12, short(head, 90)),
        rectangle(left, top, broad, high, "frame"),
        image(left, top, broad, high, data_uri(_indices(cells, *scale), palette())),
        *_odd(values, left, top, wide, tall),
        text(left - 8, top - 6, axes, "end axis"),
        *_row_names(row_names, left, top, tall),
        *_column_names(names, left, top, wide),
    ]
    return picture(max(left + broad + top * 0.75, 340), top + high + 16, marks, "cells panel")


def _odd(values: Numbers, left: float, top: float, wide: float, tall: float) -> Iterator[Markup]:
    for count, (row, column, rows, columns) in enumerate(blocks(~np.isfinite(values))):
        if count < HATCHED:
            x, y = left + column * wide, top + row * tall
            yield rectangle(x, y, columns * wide, rows * tall, "odd")


def _row_names(names: list[str], left: float, top: float, tall: float) -> Iterator[Markup]:
    for place in range(0, len(names), max(1, math.ceil(11 / tall))):
        yield text(left - 6, top + (place + 0.5) * tall + 3.5, names[place], "end")


def _column_names(names: list[str], left: float, top: float, wide: float) -> Iterator[Markup]:
    for place in range(0, len(names), max(1, math.ceil(11 / wide))):
        x = left + (place + 0.5) * wide + 3
        yield Markup('<text transform="translate({:.5g} {:.5g}) rotate(-50)">{}</text>').format(
            x, top - 5, names[place]
        )


def _said(measured: Measured) -> str:
    values = measured.values.astype(np.float64)
    finite = np.isfinite(values)
    called = measured.what or _axes(measured)
    head = f"{called}."
    if not finite.all():
        head += f" {int((~finite).sum())} of {values.size} entries are not finite."
    if measured.values.dtype == bool:
        return f"{head} {int(measured.values.sum())} of {values.size} entries are true."
    if finite.any():
        place = np.unravel_index(int(np.where(finite, values, -np.inf).argmax()), values.shape)
        words = ", ".join(
            f"{measured.axes[axis]} {measured.entry(axis, int(at))}"
            for axis, at in enumerate(place)
        )
        head += f" The largest is {number(float(values[place]))}, at {words}."
        if not np.count_nonzero(np.nan_to_num(values)):
            head = f"{called}. Every entry is 0."
    return head


def _rows(measured: Measured) -> tuple[list[str], list[tuple[str, ...]]]:
    """A row an entry that is not zero."""
    values = measured.values
    there = np.argwhere(~(values == 0))
    rows = [
        (
            *(measured.entry(axis, int(at)) for axis, at in enumerate(place)),
            "yes" if values.dtype == bool else number(float(values[tuple(place)])),
        )
        for place in there[:5000]
    ]
    return [*measured.axes, "value"], rows
