"""Attention maps: every head small, the sharpest with its names, padding and masked rows marked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from reports.figures.figure import Figure, identifier, number, thinned
from reports.figures.png import Palette, data_uri
from reports.figures.svg import blocks, image, picture, rectangle, short, text

Weights = npt.NDArray[np.float64]
ODD = 255  # the palette's last colour
SMALL, WIDE = 132.0, 900.0
HEADS = 16  # drawn small
CELLS = 160  # queries or keys that are drawn at full resolution


@dataclass(frozen=True, slots=True)
class Attention:
    """One recorded map.

    weights: (head, query, key). queries, keys: names, or places where there are none.
    query_padding, key_padding: declared, by mask. hidden: (key,) masked for every query by the
    model. masked: (query,) every key masked by the model. named: whether queries and keys have
    names.
    """

    name: str
    site: str
    layer: int
    sample: str
    row: str | None
    heads: tuple[str, ...]
    weights: Weights
    query_axis: str
    key_axis: str
    queries: tuple[str, ...]
    keys: tuple[str, ...]
    query_padding: npt.NDArray[np.bool_]
    key_padding: npt.NDArray[np.bool_]
    hidden: npt.NDArray[np.bool_]
    masked: npt.NDArray[np.bool_]
    named: bool = False

    @property
    def on_padding(self) -> float:
        """The largest share of a query's weight that lies on padding; 0 where none can be told."""
        real = ~(self.query_padding | self.masked)
        share = self.weights[:, real][:, :, self.key_padding].sum(-1)  # (head, query)
        return float(np.nan_to_num(share).max(initial=0))

    @property
    def odd(self) -> int:
        """Queries, over heads, that hold a weight that is not finite."""
        return int((~np.isfinite(self.weights)).any(-1).sum())

    @property
    def badness(self) -> float:
        """What makes a map worth a look: not finite first, masked rows, weight on padding."""
        masked = int((self.masked & ~self.query_padding).sum())
        return 1000.0 * self.odd + masked + self.on_padding

    @property
    def crosses(self) -> bool:
        """Whether it looks from one kind of thing at another, such as SQL steps at db units."""
        return self.query_axis != self.key_axis and self.named

    @property
    def largest(self) -> float:
        """The largest finite weight of a query that is neither padding nor masked."""
        real = ~(self.query_padding | self.masked)
        found = self.weights[:, real]
        return float(np.where(np.isfinite(found), found, 0).max(initial=0))

    @property
    def even(self) -> float:
        """The weight of each key, were it spread evenly over those that are neither."""
        return 1 / max(1, int((~(self.key_padding | self.hidden)).sum()))

    @property
    def flat(self) -> bool:
        """Whether no query looks anywhere in particular, so that small pictures tell all."""
        return len(self.heads) > 1 and self.odd == 0 and self.largest < 2 * self.even

    @property
    def sharpest(self) -> int:
        """The head whose queries look at the fewest keys."""
        finite = np.where(np.isfinite(self.weights) & (self.weights > 0), self.weights, 1.0)
        spread = -(finite * np.log(finite)).sum(-1)  # (head, query)
        real = ~(self.query_padding | self.masked)
        return int(spread[:, real].mean(-1).argmin()) if real.any() else 0


def draw(map_: Attention) -> Figure:
    """The figure of one map that has at least one head, query and key."""
    head = map_.sharpest
    where = f", {map_.row}" if map_.row else ""
    return Figure(
        id=identifier(map_.name),
        title=f"{map_.site}{where}",
        alt=_said(map_, head),
        svg=Markup("").join([_small(map_), *([] if map_.flat else [_large(map_, head)])]),
        table=thinned(*_peaks(map_, head)),
        notes=_notes(map_, head),
    )


@cache
def palette() -> Palette:
    """One blue, from clear at 0 to full at 1; the last colour is red, for what is not finite."""
    alpha = (np.linspace(0, 1, ODD) ** 0.6 * 255).round()
    blue = np.tile([58, 124, 235], (ODD, 1))
    scale = np.concatenate([blue, alpha[:, None]], axis=1)
    return np.concatenate([scale, [[214, 40, 57, 255]]]).astype(np.uint8)


def _indices(weights: Weights) -> npt.NDArray[np.uint8]:
    """Fixed scale: 0 is 0 and 1 is the last blue, for every map alike."""
    out = np.clip(np.nan_to_num(weights, nan=0.0), 0, 1) * (ODD - 1)
    return np.where(np.isfinite(weights), out.round(), ODD).astype(np.uint8)


def _small(map_: Attention) -> Markup:
    """Every head without names; nothing where there is one head."""
    count = min(len(map_.heads), HEADS)
    if count < 2:
        return Markup("")
    queries, keys = map_.weights.shape[1:]
    scale = SMALL / max(queries, keys)
    wide, tall = max(keys * scale, 12), max(queries * scale, 12)
    across = min(count, int(WIDE // (SMALL + 12)))
    marks = []
    for place in range(count):
        x, y = (place % across) * (SMALL + 12), (place // across) * (tall + 26)
        marks.append(text(x, y + 10, f"head {map_.heads[place]}"))
        marks.append(rectangle(x, y + 15, wide, tall, "frame"))
        cells = _indices(_pooled(map_.weights[place]))
        marks.append(image(x, y + 15, wide, tall, data_uri(cells, palette())))
    lines = -(-count // across)
    return picture(across * (SMALL + 12), lines * (tall + 26), marks, "cells small")


def _pooled(weights: Weights) -> Weights:
    """(query, key), neighbours as their maximum where there are more than can be drawn."""
    for axis in (0, 1):
        length = weights.shape[axis]
        if length > CELLS:
            edges = np.unique(np.linspace(0, length, CELLS, endpoint=False).astype(int))
            weights = np.maximum.reduceat(weights, edges, axis=axis)
    return weights


def _large(map_: Attention, head: int) -> Markup:
    weights = _pooled(map_.weights[head])
    queries, keys = map_.weights.shape[1:]
    rows, columns = weights.shape
    axes = f"{map_.query_axis} ↓  {map_.key_axis} →"
    left = 20 + 6.2 * max(len(axes), *(len(short(name, 22)) for name in map_.queries))
    top = 14 + 4.6 * max(len(short(name, 30)) for name in map_.keys)
    cell = min(18.0, max(4.0, (WIDE - left - 60) / columns))
    tall = min(18.0, max(4.0, 700 / rows))
    wide, high = columns * cell, rows * tall
    sides = (wide / keys, high / queries)  # of one weight
    marks = [
        rectangle(left, top, wide, high, "frame"),
        image(left, top, wide, high, data_uri(_indices(weights), palette())),
        *_padding(map_, head, left, top, sides),
        *_queries(map_, left, top, sides[1]),
        *_keys(map_, left, top, sides[0]),
        text(left - 8, top - 6, axes, "end axis"),
        *_legend(left, top + high + 14),
    ]
    across = left + max(wide + top * 0.75 + 10, 320)
    return picture(across, top + high + 44, marks, "cells")


def _padding(
    map_: Attention, head: int, left: float, top: float, sides: tuple[float, float]
) -> Iterator[Markup]:
    """Hatched: padding, and rows with every key masked; red hatching: not finite."""
    off = (map_.query_padding | map_.masked)[:, None] | (map_.key_padding | map_.hidden)[None]
    for kind, marked in (("off", off), ("odd", ~np.isfinite(map_.weights[head]))):
        for place, (row, column, rows, columns) in enumerate(blocks(marked)):
            if place < 400:
                x, y = left + column * sides[0], top + row * sides[1]
                yield rectangle(x, y, columns * sides[0], rows * sides[1], kind)


def _queries(map_: Attention, left: float, top: float, side: float) -> Iterator[Markup]:
    every = max(1, int(np.ceil(11 / side)))
    for place in range(0, len(map_.queries), every):
        off = map_.query_padding[place] or map_.masked[place]
        words = short(map_.queries[place], 22)
        yield text(left - 6, top + (place + 0.5) * side + 3.5, words, "end dim" if off else "end")


def _keys(map_: Attention, left: float, top: float, side: float) -> Iterator[Markup]:
    every = max(1, int(np.ceil(11 / side)))
    for place in range(0, len(map_.keys), every):
        off = map_.key_padding[place] or map_.hidden[place]
        x, y = left + (place + 0.5) * side + 3, top - 5
        yield Markup('<text transform="translate({:.5g} {:.5g}) rotate(-50)"{}>{}</text>').format(
            x, y, Markup(' class="dim"') if off else "", short(map_.keys[place], 30)
        )


def _legend(left: float, top: float) -> Iterator[Markup]:
    yield rectangle(left, top, 140, 9, "frame")
    ramp = np.arange(ODD, dtype=np.uint8)[None]  # (1, colour)
    yield image(left, top, 140, 9, data_uri(ramp, palette()))
    yield text(left, top + 22, "0")
    yield text(left + 70, top + 22, "0.5", "middle")
    yield text(left + 140, top + 22, "1", "end")
    yield rectangle(left + 165, top, 18, 9, "off")
    yield text(left + 189, top + 9, "padding or masked")


def _said(map_: Attention, head: int) -> str:
    peaks = _peaks(map_, head)[1]
    real = [place for place in range(len(peaks)) if not peaks[place][3]]
    place = max(real, key=lambda each: float(peaks[each][2]), default=None)
    words = ["Every query is padding, masked or not finite."]
    if place is not None:
        query, key, weight, _ = peaks[place]
        words = [f"Head {map_.heads[head]} is sharpest at {query} → {key} ({weight})."]
    if map_.flat:
        words = [
            f"Nearly even: no weight is above {map_.largest:.2g}, where an even spread over "
            f"{round(1 / map_.even)} keys gives {map_.even:.2g}."
        ]
    if map_.odd:
        words.insert(0, f"{map_.odd} rows of weights, over all heads, are not finite.")
    masked = int((map_.masked & ~map_.query_padding).sum())
    if masked:
        words.append(f"{masked} rows that are no padding have every key masked.")
    if map_.on_padding > 1e-6:
        words.append(f"Up to {map_.on_padding:.1%} of a query's weight lies on padding.")
    elif map_.key_padding.any():
        words.append("No weight lies on padding.")
    return " ".join(words)


def _notes(map_: Attention, head: int) -> tuple[str, ...]:
    queries, keys = map_.weights.shape[1:]
    heads = len(map_.heads)
    large = "none large, since all are nearly even" if map_.flat else "the sharpest large"
    what = f"{heads} heads, {large}" if heads > 1 else "One head"
    notes = [f"{what}; {queries} × {keys}; the colour's scale is 0 to 1 for every map."]  # noqa: RUF001
    if heads > HEADS:
        notes.append(f"{HEADS} of {heads} heads are drawn; the others are in the run folder.")
    if max(queries, keys) > CELLS:
        notes.append(f"More than {CELLS} queries or keys are drawn by the maximum of neighbours.")
    return tuple(notes)


def _peaks(map_: Attention, head: int) -> tuple[list[str], list[tuple[str, ...]]]:
    """For each query the key of its largest weight."""
    columns = [map_.query_axis, f"most on {map_.key_axis}", "weight", "remark"]
    return columns, [_peak(map_, head, query) for query in range(len(map_.queries))]


def _peak(map_: Attention, head: int, query: int) -> tuple[str, ...]:
    line = map_.weights[head, query]
    name = map_.queries[query]
    if not np.isfinite(line).all():
        return name, "", "NaN", "not finite"
    remark = "every key masked" if map_.masked[query] else ""
    remark = "padding" if map_.query_padding[query] else remark
    key = int(line.argmax())
    if line[key] == 0:
        return name, "nothing", "0", remark or "no weight"
    return name, map_.keys[key], number(round(float(line[key]), 3)), remark
