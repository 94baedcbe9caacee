"""One number of every parameter over the steps: rows in model order, colour by its logarithm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from probes.run import Matrix
from reports.figures.figure import Figure, Table, identifier, listed, number
from reports.figures.png import Palette, data_uri
from reports.figures.svg import apart, blocks, image, picture, rectangle, text

STEPS, ROWS, TABLE, HATCHED = 1000, 480, 150, 1500
WIDTH, LABELS, LEGEND = 960.0, 270.0, 46.0
NOT_SEEN, ZERO, ODD, FIRST = 0, 1, 2, 3

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Words:
    """How the numbers are called.

    id, title: of the figure. what: such as `gradient`; size: such as `norm`. colour: what the
    colour is the logarithm of. odd: what is said of a parameter with a number that is not finite.
    """

    id: str
    title: str
    what: str
    size: str
    colour: str
    odd: str


def draw(matrix: Matrix, words: Words, at_least: int = 1) -> Figure:
    """The heatmap of a matrix that holds at least one reading.

    at_least: neighbouring steps that share a column, of numbers that few steps are looked at for.
    """
    values = np.where(matrix.seen, np.abs(matrix.values), -1.0).astype(np.float64)  # -1: not seen
    cells, notes = _binned(values.T, at_least)
    names = list(matrix.sites)
    low, high = _range(values)
    first = int(matrix.steps[0])
    last = int(matrix.steps[-1] + matrix.folded[-1] - 1)
    if (matrix.folded > 1).any():
        notes.append("older steps were folded into their maximum as the record was written")
    return Figure(
        id=identifier(words.id),
        title=words.title,
        alt=_said(matrix, words, values, (first, last)),
        svg=_picture(cells, names, (first, last), (low, high)),
        table=_table(matrix, values),
        notes=(
            f"Rows are parameters in model order, columns are steps; colour is the logarithm of "
            f"{words.colour}.",
            *(note[0].upper() + note[1:] + "." for note in notes),
        ),
    )


def _binned(values: Numbers, at_least: int = 1) -> tuple[Numbers, list[str]]:
    """(parameter, step) with neighbours binned by their maximum, and what was binned."""
    notes = []
    rows, steps = values.shape
    most = min(STEPS, max(1, steps // at_least))
    if steps > most:
        values = _maxima(values, most)
        into = f"{values.shape[1]} column{'s' if values.shape[1] > 1 else ''}"
        notes.append(f"{steps} steps are binned by their maximum into {into}")
    if rows > ROWS:
        values = _maxima(values.T, ROWS).T
        notes.append(f"{rows} parameters are binned by their maximum into {len(values)} rows")
    return values, notes


def _maxima(values: Numbers, most: int) -> Numbers:
    """Along the last axis; NaN is the largest, so that none is lost."""
    edges = np.unique(np.linspace(0, values.shape[-1], most, endpoint=False).astype(int))
    with np.errstate(invalid="ignore"):
        out: Numbers = np.maximum.reduceat(values, edges, axis=-1)
    return out


def _range(values: Numbers) -> tuple[float, float]:
    """Powers of ten around the finite norms above zero, at most twelve decades."""
    finite = values[np.isfinite(values) & (values > 0)]
    if len(finite) == 0:
        return -1.0, 0.0
    high = float(np.ceil(np.log10(finite.max())))
    low = float(np.floor(np.log10(finite.min())))
    return max(min(low, high - 1), high - 12), high


@cache
def palette() -> Palette:
    """Not seen is clear, zero is pale, not finite is red, the rest is viridis."""
    from matplotlib import colormaps

    scale = colormaps["viridis"](np.linspace(0, 1, 256 - FIRST)) * 255
    own = [[0, 0, 0, 0], [243, 234, 215, 255], [214, 40, 57, 255]]
    return np.concatenate([own, scale]).round().astype(np.uint8)


def _indices(values: Numbers, low: float, high: float) -> npt.NDArray[np.uint8]:
    finite = np.isfinite(values)
    log = np.log10(np.where(finite & (values > 0), values, 10.0**low))
    scaled = np.clip((log - low) / (high - low), 0, 1) * (255 - FIRST)
    out = (FIRST + scaled.round()).astype(np.uint8)
    out[values == 0] = ZERO
    out[~finite] = ODD
    out[values < 0] = NOT_SEEN  # no comparison is true of a NaN, which is marked already
    return out


def _picture(
    cells: Numbers, names: list[str], steps: tuple[int, int], scale: tuple[float, float]
) -> Markup:
    rows, columns = cells.shape
    tall = min(15.0, max(2.0, 1100 / rows)) if rows > 80 else 14.0
    height = rows * tall
    wide = (WIDTH - LABELS) / columns
    marks = [
        rectangle(LABELS, 0, WIDTH - LABELS, height, "unseen"),
        image(LABELS, 0, WIDTH - LABELS, height, data_uri(_indices(cells, *scale), palette())),
        *_hatching(~np.isfinite(cells), tall, wide),
        *_labels(names, rows, tall),
        *_axis(steps, height),
        *_legend(scale, height + LEGEND),
    ]
    return picture(WIDTH, height + LEGEND + 34, marks, "cells")


def _hatching(odd: npt.NDArray[np.bool_], tall: float, wide: float) -> Iterator[Markup]:
    for place, (row, column, rows, columns) in enumerate(blocks(odd)):
        if place < HATCHED:
            yield rectangle(LABELS + column * wide, row * tall, columns * wide, rows * tall, "odd")


def _labels(names: list[str], rows: int, tall: float) -> Iterator[Markup]:
    """A name a row, or, where rows are too low for that, one wherever there is room."""
    drawn = range(0, rows, max(1, int(np.ceil(11 / tall))))
    shown = apart([names[row * len(names) // rows] for row in drawn], 42)
    for row, name in zip(drawn, shown, strict=True):
        yield text(LABELS - 8, (row + 0.5) * tall + 3.5, name, "end")


def _axis(steps: tuple[int, int], height: float) -> Iterator[Markup]:
    first, last = steps
    yield text(LABELS, height + 16, f"step {first}")
    if last > first:
        middle = (first + last) // 2
        yield text((LABELS + WIDTH) / 2, height + 16, f"step {middle}", "middle")
        yield text(WIDTH, height + 16, f"step {last}", "end")


def _legend(scale: tuple[float, float], top: float) -> Iterator[Markup]:
    ramp = np.linspace(FIRST, 255, 32).round().astype(np.uint8)[None]  # (1, colour)
    yield image(LABELS, top, 240, 10, data_uri(ramp, palette()))
    yield text(LABELS, top + 24, f"1e{round(scale[0])}")
    yield text(LABELS + 240, top + 24, f"1e{round(scale[1])}", "end")
    for place, (kind, words) in enumerate(
        [("zero", "exactly zero"), ("bad", "not finite"), ("unseen", "not seen")]
    ):
        x = LABELS + 290 + place * 130
        yield rectangle(x, top, 20, 10, kind)
        if kind == "bad":
            yield rectangle(x, top, 20, 10, "odd")
        yield text(x + 27, top + 9, words)


def _said(matrix: Matrix, words: Words, values: Numbers, span: tuple[int, int]) -> str:
    names = np.array(matrix.sites, dtype=object)
    odd = ~np.isfinite(values)
    head = (
        f"{len(names)} parameter{'s' if len(names) > 1 else ''} over steps {span[0]} to {span[1]}."
    )
    if odd.any():
        row = int(np.flatnonzero(odd.any(axis=1))[0])
        many = int(odd.any(axis=0).sum())
        have = "1 parameter has" if many == 1 else f"{many} parameters have"
        count = f"{have} {words.odd} that is not finite"
        head += f" {count}, first at step {matrix.steps[row]}: {listed(names[odd[row]])}."
    else:
        head += f" Every {words.what} that was seen is finite."
    finite = np.where(np.isfinite(values), values, -1)
    if finite.max() > 0:
        step, column = np.unravel_index(int(finite.argmax()), finite.shape)
        at = f"`{names[column]}` at step {matrix.steps[step]}"
        head += f" The largest finite {words.size} is {finite.max():.3g}, of {at}."
    always_zero = (values <= 0).all(axis=0) & (values == 0).any(axis=0)
    if always_zero.any():
        head += f" Zero at every step: {listed(names[always_zero])}."
    never = ~matrix.seen.any(axis=0)
    if never.any():
        head += f" Never seen: {listed(names[never])}."
    return head


def _table(matrix: Matrix, values: Numbers) -> Table:
    columns = ("parameter", "first", "median", "largest", "last", "not finite", "not seen")
    rows = [_row(name, values[:, place]) for place, name in enumerate(matrix.sites)]
    if len(rows) <= TABLE:
        return Table(columns, tuple(rows))
    worst = np.argsort([-_badness(values[:, place]) for place in range(len(rows))], kind="stable")
    kept = sorted(worst[:TABLE].tolist())
    said = f"{TABLE} of {len(rows)} parameters: those not finite, then those of the largest norms"
    return Table(columns, tuple(rows[place] for place in kept), said)


def _badness(column: Numbers) -> float:
    return float(np.where(np.isfinite(column), column, 1e300).max())


def _row(name: str, column: Numbers) -> tuple[str, ...]:
    measured = column[~(column < 0)]
    finite = measured[np.isfinite(measured)]
    ends = (float(measured[0]), float(measured[-1])) if len(measured) else (None, None)
    middle = float(np.median(finite)) if len(finite) else None
    largest = float(finite.max()) if len(finite) else None
    odd, unseen = len(measured) - len(finite), len(column) - len(measured)
    return (
        name,
        *(number(value) for value in (ends[0], middle, largest, ends[1])),
        f"{odd} of {len(column)}" if odd else "0",
        f"{unseen} of {len(column)}" if unseen else "0",
    )
