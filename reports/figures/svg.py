"""Pictures as inline SVG: cells drawn by hand, and what matplotlib drew in the page's own ink."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010203"  # becomes the page's own text colour
LINES = ("#a10001", "#a10002", "#a10003", "#a10004", "#a10005", "#a10006")  # become --line-1 ...
SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "font.size": 10,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


WIDE, LEFT, RIGHT, TOP, BOTTOM, BETWEEN = 9.6, 0.72, 0.12, 0.32, 0.5, 0.75  # inches
KEY, ACROSS = 0.19, 2  # inches of a line of the key below a panel, and names in it
FITS = 23  # characters of a name that stands beside another below one of two panels


@contextmanager
def panels(
    count: int, high: float, keys: int = 0, across: int = ACROSS
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure of so many panels side by side, over steps, in ink that becomes the page's own.

    high: in inches. keys: lines of a panel, at most, that `key` is to name below it, so many
    across.
    The margins are fixed: to measure every label takes longer than to draw all else.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with rc_context(cast(Any, SETTINGS)):
        below = BOTTOM + KEY * -(-keys // across)
        high += below - BOTTOM
        figure = Figure(figsize=(WIDE, high))
        axes = list(figure.subplots(1, count, squeeze=False)[0])
        panel = (WIDE - LEFT - RIGHT - (count - 1) * BETWEEN) / count
        figure.subplots_adjust(
            left=LEFT / WIDE,
            right=1 - RIGHT / WIDE,
            top=1 - TOP / high,
            bottom=below / high,
            wspace=BETWEEN / panel,
        )
        for each in axes:
            each.set_xlabel("step")
            each.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        yield figure, axes


def key(panel: Axes, across: int = ACROSS) -> None:
    """What each line is called stands below the panel, where it hides none of them."""
    inches = panel.get_window_extent().height / panel.figure.dpi
    below = (0.0, -(BOTTOM - 0.04) / inches)
    panel.legend(loc="upper left", bbox_to_anchor=below, ncols=across, fontsize=9, borderaxespad=0)


def log_scale(panel: Axes) -> None:
    """The vertical axis is logarithmic, its labels plain numbers: formulas are slow to set."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    panel.set_yscale("log")
    low, high = panel.dataLim.y0, panel.dataLim.y1
    narrow = low > 0 and high / low < 30
    plain = FuncFormatter(lambda value, _: f"{value:.4g}")
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,), numticks=8))
    panel.yaxis.set_major_formatter(plain)
    panel.yaxis.set_minor_formatter(NullFormatter())


def from_matplotlib(figure: Figure, prefix: str) -> Markup:
    """The figure as markup in the page's colours, its ids prefixed so that two do not clash."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", text, flags=re.S)
    text = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text)
    text = text.replace("xlink:href", "href").replace(INK, "currentColor")
    for place, colour in enumerate(LINES, 1):
        text = text.replace(colour, f"var(--line-{place})")
    text = re.sub(r'\bid="', f'id="{prefix}.', text)
    text = re.sub(r"url\(#", f"url(#{prefix}.", text)
    text = re.sub(r'href="#', f'href="#{prefix}.', text)
    text = re.sub(r"<svg [^>]*?viewBox", '<svg class="plot" viewBox', text, count=1)
    text = re.sub(r"<defs>\s*</defs>", "", re.sub(r'<g id="[^"]*"', "<g", text))
    return Markup(re.sub(r">\s+<", "><", re.sub(r"<[^>]+>", _shorter, text)))


def _shorter(tag: re.Match[str]) -> str:
    """The tag in the page's own font, places to a hundredth of a point, paths without spaces."""
    text = re.sub(r"font-family: [^;\"]+;? ?|(?<=\") +transform=\"rotate\(-0 [^\"]*\"", "", tag[0])
    text = re.sub(r"(\d+\.\d\d)\d+", r"\1", text)
    return re.sub(r"\s*\b([MLCQ]) (?=-?[\d.])|\s+(?=z?\")", r"\1", text)


def text(x: float, y: float, words: str, kind: str = "") -> Markup:
    """Words at a place; kind: classes, such as `end` for right-aligned."""
    return Markup('<text x="{:.6g}" y="{:.6g}"{}>{}</text>').format(
        x, y, Markup(' class="{}"').format(kind) if kind else "", words
    )


def image(x: float, y: float, width: float, height: float, uri: str) -> Markup:
    """A picture of one pixel a cell, stretched."""
    return Markup(
        '<image x="{:.6g}" y="{:.6g}" width="{:.6g}" height="{:.6g}" href="{}" '
        'preserveAspectRatio="none"/>'
    ).format(x, y, width, height, uri)


def rectangle(x: float, y: float, width: float, height: float, kind: str) -> Markup:
    """A rectangle of this class."""
    return Markup('<rect x="{:.6g}" y="{:.6g}" width="{:.6g}" height="{:.6g}" class="{}"/>').format(
        x, y, width, height, kind
    )


def picture(width: float, height: float, marks: Iterable[Markup], kind: str) -> Markup:
    """The marks as one SVG of this size; a narrow screen scrolls it, paper shrinks it."""
    return Markup(
        '<svg class="{}" viewBox="0 0 {:.6g} {:.6g}" style="width:{:.6g}px">{}</svg>'
    ).format(kind, width, height, width, Markup("").join(marks))


def blocks(marked: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int, int, int]]:
    """Rectangles (row, column, rows, columns) that cover the marked cells; alike rows as one."""
    open_runs: dict[tuple[int, int], int] = {}
    for row in range(len(marked) + 1):
        runs = set(_runs(marked[row])) if row < len(marked) else set()
        for run in [run for run in open_runs if run not in runs]:
            start = open_runs.pop(run)
            yield start, run[0], row - start, run[1]
        for run in sorted(runs):
            open_runs.setdefault(run, row)


def _runs(line: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(np.int8), [0]])))
    for start, end in edges.reshape(-1, 2).tolist():  # (run, start and end)
        yield start, end - start


def mathless(words: str) -> str:
    """The words as matplotlib takes them to the letter: a dollar begins no formula."""
    return words.replace("$", r"\$")


def short(words: str, most: int = 34, head: int | None = None) -> str:
    """The words, cut in their middle where they are long: a name's end tells most.

    head: how many characters of the start stay, a third by default.
    """
    if len(words) <= most:
        return words
    head = most // 3 if head is None else head
    return f"{words[:head]}…{words[-(most - head - 1) :]}"


def apart(names: Sequence[str], most: int = 34) -> list[str]:
    """The names, cut alike where they are long, at the place that leaves most of them apart."""
    cuts = ([short(name, most, head) for name in names] for head in (most // 3, most // 6, 0))
    return max(cuts, key=lambda cut: len(set(cut)))  # the first of the best
