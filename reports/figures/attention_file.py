"""An attention map as a file of its own, PNG or SVG, for a paper or a slide."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from reports.figures.attention import Attention, trimmed
from reports.figures.attention_map import POWER
from reports.figures.svg import mathless, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

NAMED, HEADS, ACROSS = 48, 16, 4  # names on an axis, heads of a file, panels in a row
TICKS = (0.0, 0.1, 0.25, 0.5, 1.0)  # weights that the bar of colours names
SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.size": 8,
    "hatch.linewidth": 0.5,
}
QUIET: dict[str, Any] = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}


def save(map_: Attention, path: Path) -> None:
    """The map, every head a panel, lies at the path; its suffix, .png or .svg, is the format."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    map_ = trimmed(map_)
    count = min(len(map_.heads), HEADS)
    across = min(count, ACROSS)
    down = math.ceil(count / across)
    queries, keys = map_.weights.shape[1:]
    wide = min(9.0, max(2.6, 0.2 * min(keys, NAMED))) if count == 1 else 2.6
    tall = wide * min(2.5, max(0.3, queries / keys))
    with rc_context(cast(Any, SETTINGS)):
        figure = Figure(figsize=(across * wide + 0.6, down * tall + 0.9), layout="constrained")
        panels = figure.subplots(down, across, squeeze=False).ravel()
        drawn = [_panel(map_, place, panel) for place, panel in enumerate(panels[:count])]
        for panel in panels[count:]:
            panel.set_axis_off()
        bar = figure.colorbar(drawn[-1], ax=panels.tolist(), shrink=0.5, aspect=25, pad=0.02)
        bar.set_ticks([at**POWER for at in TICKS], labels=[f"{at:g}" for at in TICKS])
        figure.suptitle(mathless(_title(map_, 44 * across)), fontsize=9)
        figure.supxlabel(_key(map_), fontsize=7)
        figure.savefig(path, dpi=160, metadata=QUIET[path.suffix[1:]])


def _title(map_: Attention, most: int) -> str:
    """What attends, and of which sample, each in a line of its own."""
    row = f", {map_.row}" if map_.row else ""
    return f"{short(f'layer {map_.layer}, {map_.site}{row}', most)}\n{short(map_.sample, most)}"


def _key(map_: Attention) -> str:
    """What the marks mean that are there."""
    hatched = map_.query_padding.any() or map_.masked.any()
    hatched = hatched or map_.key_padding.any() or map_.hidden.any()
    told = ["hatched: padding or masked"] if hatched else []
    told += ["red: not finite"] if map_.odd else []
    told += [f"not drawn: {map_.cut_words}, padding at the end"] if any(map_.cut) else []
    return "; ".join(told)


def _panel(map_: Attention, head: int, panel: Axes) -> AxesImage:
    weights = map_.weights[head]
    finite = np.isfinite(weights)
    shown = np.ma.masked_invalid(np.clip(weights, 0, 1) ** POWER)
    image = panel.imshow(
        shown, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest"
    )
    panel.set_facecolor("#d62839")  # shows where nothing finite is drawn
    _hatched(panel, np.argwhere(~finite), "xxxx", "white")
    off = map_.query_padding | map_.masked
    hidden = map_.key_padding | map_.hidden
    rows, columns = weights.shape
    for row in np.flatnonzero(off):
        panel.axhspan(row - 0.5, row + 0.5, fill=False, hatch="////", edgecolor="grey", linewidth=0)
    for column in np.flatnonzero(hidden):
        panel.axvspan(
            column - 0.5, column + 0.5, fill=False, hatch="////", edgecolor="grey", linewidth=0
        )
    panel.set_title(mathless(f"head {map_.heads[head]}"), fontsize=8)
    panel.set_xlabel(mathless(map_.key_axis))
    panel.set_ylabel(mathless(map_.query_axis))
    for names, axis in ((map_.keys, panel.xaxis), (map_.queries, panel.yaxis)):
        if len(names) <= NAMED:
            axis.set_ticks(range(len(names)), [mathless(short(name, 18)) for name in names])
    panel.tick_params(axis="x", labelrotation=90 if columns <= NAMED else 0)
    panel.tick_params(labelsize=5 if max(rows, columns) > 20 else 7)
    return image


def _hatched(panel: Axes, cells: Any, hatch: str, colour: str) -> None:
    from matplotlib.patches import Rectangle

    for row, column in cells[:2000]:
        place = (column - 0.5, row - 0.5)
        panel.add_patch(
            Rectangle(place, 1, 1, fill=False, hatch=hatch, edgecolor=colour, linewidth=0)
        )
