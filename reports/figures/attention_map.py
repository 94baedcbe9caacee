"""Attention maps: every head small, the chosen ones large with names, padding and masks marked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from reports.figures.attention import Attention, Head, Weights
from reports.figures.figure import Figure, Table, identifier, number, thinned
from reports.figures.png import Palette, data_uri
from reports.figures.svg import blocks, image, picture, rectangle, short, text

ODD = 255  # the palette's last colour
POWER = 0.6  # a weight is drawn, and quantised, by this power of it
STEP = 0.0034  # by which a value read from a picture may differ from the recorded one
SMALL, WIDE = 132.0, 900.0
THUMBNAIL = 64  # queries or keys of a small picture, at most
HATCHED = 400


def draw(
    map_: Attention, large: Sequence[int] | None = None, side: int = THUMBNAIL, rows: int = 120
) -> Figure:
    """The figure of one map that has at least one head, query and key.

    large: heads that are drawn at full resolution; by default the worst, or none where all are
    nearly even. side: of a small picture, in cells. rows: of the table.
    """
    chosen = ([] if map_.flat else [map_.worst]) if large is None else list(large)
    where = f", {map_.row}" if map_.row else ""
    head = chosen[0] if chosen else map_.worst
    figure = identifier(map_.name)
    return Figure(
        id=figure,
        title=f"Layer {map_.layer}, {map_.site}{where}",
        alt=_said(map_, head),
        svg=Markup("").join([_small(map_, side, figure, chosen), *_larges(map_, figure, chosen)]),
        table=thinned(*_peaks(map_, head), most=rows),
        notes=_notes(map_, chosen, side),
        badness=map_.badness,
    )


@cache
def palette() -> Palette:
    """One blue, whose transparency is the cell's index; the last colour is red: not finite.

    A page's script reads the index back, so that hover needs no second copy of the numbers.
    """
    scale = np.tile([58, 124, 235, 0], (ODD + 1, 1))
    scale[:, 3] = np.arange(ODD + 1)
    scale[ODD] = [214, 40, 57, 255]
    return scale.astype(np.uint8)


def indices(weights: Weights) -> npt.NDArray[np.uint8]:
    """Fixed scale: 0 is 0 and 1 is the last blue, for every map alike."""
    out = np.clip(np.nan_to_num(weights, nan=0.0), 0, 1) ** POWER * (ODD - 1)
    return np.where(np.isfinite(weights), out.round(), ODD).astype(np.uint8)


def pooled(weights: Weights, most: int) -> Weights:
    """(query, key), neighbours as their maximum where there are more than can be drawn."""
    for axis in (0, 1):
        length = weights.shape[axis]
        if length > most:
            edges = np.unique(np.linspace(0, length, most, endpoint=False).astype(int))
            with np.errstate(invalid="ignore"):  # NaN is the largest, so that none is lost
                weights = np.maximum.reduceat(weights, edges, axis=axis)
    return weights


def _small(map_: Attention, side: int, figure: str, chosen: Sequence[int]) -> Markup:
    """Every head without names, each a link to its large picture; nothing where there is one."""
    count = len(map_.heads)
    if count < 2:
        return Markup("")
    queries, keys = map_.weights.shape[1:]
    scale = SMALL / max(queries, keys)
    wide, tall = max(keys * scale, 12), max(queries * scale, 12)
    across = min(count, int(WIDE // (SMALL + 12)))
    marks = []
    for place in range(count):
        x, y = (place % across) * (SMALL + 12), (place // across) * (tall + 26)
        cells = indices(pooled(map_.weights[place], side))
        name = f"head {map_.heads[place]}"
        one = Markup("").join(
            [
                text(x, y + 10, name + (" ↓" if place in chosen else "")),
                rectangle(x, y + 15, wide, tall, "frame"),
                image(x, y + 15, wide, tall, data_uri(cells, palette())),
            ]
        )
        link = Markup('<a href="#{}.h{}" aria-label="{} large">{}</a>')
        marks.append(link.format(figure, place, name, one) if place in chosen else one)
    lines = -(-count // across)
    return picture(across * (SMALL + 12), lines * (tall + 26), marks, "cells small")


def _larges(map_: Attention, figure: str, chosen: Sequence[int]) -> Iterator[Markup]:
    for head in chosen:
        yield Markup('<div class="map" id="{}.h{}" data-head="{}">{}</div>').format(
            figure, head, map_.heads[head], large(map_, head)
        )


def large(map_: Attention, head: int) -> Markup:
    """One head at full resolution, with names, marks and the scale."""
    weights = map_.weights[head]
    queries, keys = weights.shape
    axes = f"{map_.query_axis} ↓  {map_.key_axis} →"
    left = 20 + 6.2 * max(len(axes), *(len(short(name, 22)) for name in map_.queries))
    top = 28 + 4.6 * max(len(short(name, 30)) for name in map_.keys)
    sides = (  # of one weight
        min(18.0, max(1.6, (WIDE - left - 60) / keys)),
        min(18.0, max(1.6, 700 / queries)),
    )
    wide, high = keys * sides[0], queries * sides[1]
    cells = Markup(
        '<image class="values" x="{:.6g}" y="{:.6g}" width="{:.6g}" height="{:.6g}" href="{}" '
        'preserveAspectRatio="none"/>'
    ).format(left, top, wide, high, data_uri(indices(weights), palette()))
    marks = [
        text(0, 11, f"head {map_.heads[head]}"),
        rectangle(left, top, wide, high, "frame"),
        cells,
        *_padding(map_, head, left, top, sides),
        *_queries(map_, left, top, sides[1]),
        *_keys(map_, left, top, sides[0]),
        text(left - 8, top - 6, axes, "end axis"),
        *_legend(left, top + high + 14),
    ]
    return picture(left + max(wide + top * 0.75 + 10, 320), top + high + 44, marks, "cells")


def _padding(
    map_: Attention, head: int, left: float, top: float, sides: tuple[float, float]
) -> Iterator[Markup]:
    """Hatched: padding, and rows with every key masked; red hatching: not finite."""
    off = (map_.query_padding | map_.masked)[:, None] | (map_.key_padding | map_.hidden)[None]
    for kind, marked in (("off", off), ("odd", ~np.isfinite(map_.weights[head]))):
        for place, (row, column, rows, columns) in enumerate(blocks(marked)):
            if place < HATCHED:
                x, y = left + column * sides[0], top + row * sides[1]
                yield rectangle(x, y, columns * sides[0], rows * sides[1], kind)


def _queries(map_: Attention, left: float, top: float, side: float) -> Iterator[Markup]:
    for place in range(0, len(map_.queries), max(1, math.ceil(11 / side))):
        off = map_.query_padding[place] or map_.masked[place]
        words = short(map_.queries[place], 22)
        yield text(left - 6, top + (place + 0.5) * side + 3.5, words, "end dim" if off else "end")


def _keys(map_: Attention, left: float, top: float, side: float) -> Iterator[Markup]:
    for place in range(0, len(map_.keys), max(1, math.ceil(14 / side))):
        off = map_.key_padding[place] or map_.hidden[place]
        x, y = left + (place + 0.5) * side + 3, top - 5
        yield Markup('<text transform="translate({:.5g} {:.5g}) rotate(-50)"{}>{}</text>').format(
            x, y, Markup(' class="dim"') if off else "", short(map_.keys[place], 30)
        )


def _legend(left: float, top: float) -> Iterator[Markup]:
    yield rectangle(left, top, 140, 9, "frame")
    ramp = indices(np.linspace(0, 1, 16)[None])  # (1, colour)
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


def _notes(map_: Attention, chosen: Sequence[int], side: int) -> tuple[str, ...]:
    queries, keys = (n + cut for n, cut in zip(map_.weights.shape[1:], map_.cut, strict=True))
    count = len(map_.heads)
    none = "none large, since all are nearly even" if map_.flat else "none large here"
    what = (
        f"{count} heads, {f'{len(chosen)} large' if chosen else none}" if count > 1 else "One head"
    )
    size = f"{queries} × {keys}"  # noqa: RUF001
    notes = [f"{what}; {size}; the colour's scale is 0 to 1 for every map."]
    if any(map_.cut):
        notes.append(f"Not drawn: {map_.cut_words}, padding at the end.")
    if count > 1 and max(map_.weights.shape[1:]) > side:
        notes.append(
            f"The small pictures are of {side} cells a side, by the maximum of neighbours."
        )
    if chosen:
        notes.append(f"Values on hover are quantised: within {STEP} of the recorded ones.")
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


def summary(found: Sequence[Head]) -> Table:
    """A row a head; shares are means over the queries that are real."""
    columns = ("layer", "site", "head", "entropy", "padding", "diagonal", "special", "remark")
    rows = tuple(
        (
            str(head.layer),
            head.site + (f", {head.row}" if head.row else ""),
            head.head,
            *(_share(each) for each in (head.entropy, head.padding, head.diagonal, head.special)),
            head.remark,
        )
        for head in found
    )
    return Table(columns, rows)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
