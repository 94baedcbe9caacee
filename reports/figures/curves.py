"""The course of one suite: its loss, and how much of every head was right."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from reports.figures.figure import Figure, identifier, number, thinned
from reports.figures.svg import INK, LINES, SETTINGS, from_matplotlib, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
DRAWN = 8  # lines of a panel
POINTS = 1500  # of a line; beyond it the largest of neighbours stands for them


@dataclass(frozen=True, slots=True)
class Curve:
    """One line: at these steps these values, NaN where not finite by that name.

    hits and counts are there where the values are accuracies.
    """

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    hits: tuple[float, ...] = ()
    counts: tuple[float, ...] = ()

    @property
    def words(self) -> str:
        """The last value, with its count where it has one."""
        if self.counts:
            return f"{self.hits[-1]:.10g} of {self.counts[-1]:.10g}"
        return number(self.values[-1])


@dataclass(frozen=True, slots=True)
class Course:
    """A suite or another stretch of training: its losses first `<loss>`, then its parts."""

    part: str
    title: str
    losses: tuple[Curve, ...]
    accuracies: tuple[Curve, ...]
    ended: str | None = None


def draw(course: Course) -> Figure:
    """The figure of a course that has at least one line."""
    log = all(value > 0 for curve in course.losses for value in curve.values if _finite(value))
    notes = [] if log else ["The loss is not above zero throughout, so its scale is linear."]
    if any(len(curve.steps) > POINTS for curve in course.losses):
        notes.append(f"Lines of more than {POINTS} steps are drawn by the maximum of neighbours.")
    most = max(len(course.losses), len(course.accuracies))
    if most > DRAWN:
        notes.append(f"{DRAWN} of {most} lines are drawn; the table holds all of them.")
    return Figure(
        id=identifier(course.part),
        title=course.title,
        alt=_said(course),
        svg=_plot(course, log),
        table=thinned(*_numbers(course)),
        notes=tuple(notes),
    )


def _plot(course: Course, log: bool) -> Any:
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas
    from matplotlib.ticker import MaxNLocator

    with rc_context(cast(Any, SETTINGS)):
        panels = [kind for kind in (course.losses, course.accuracies) if kind]
        canvas = Canvas(figsize=(9.6, 3.3), layout="constrained")
        axes = canvas.subplots(1, len(panels), squeeze=False)[0]
        for panel, lines in zip(axes, panels, strict=True):
            if lines is course.losses:
                _losses(panel, lines[:DRAWN], log)
            else:
                _accuracies(panel, lines[:DRAWN])
            panel.set_xlabel("step")
            panel.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        return from_matplotlib(canvas, identifier(course.part))


def _losses(panel: Axes, curves: tuple[Curve, ...], log: bool) -> None:
    panel.set_title("loss, log scale" if log else "loss")
    if log and any(_finite(value) for curve in curves for value in curve.values):
        panel.set_yscale("log")
    for place, curve in enumerate(curves):
        steps, values = _drawn(curve)
        _line(panel, place, steps, values, curve.name)
        odd = [s for s, v in zip(curve.steps, curve.values, strict=True) if not _finite(v)]
        if odd:
            high = panel.get_xaxis_transform()  # x in steps, y in the panel's own height
            odd = odd[:: math.ceil(len(odd) / 60)]
            panel.plot(odd, [0.97] * len(odd), "x", color=INK, transform=high, label="not finite")
    if len(curves) > 1 or panel.get_legend_handles_labels()[1][1:]:
        panel.legend(loc="best", fontsize=9)


def _accuracies(panel: Axes, curves: tuple[Curve, ...]) -> None:
    panel.set_title("right, share of what was counted")
    panel.set_ylim(-0.03, 1.05)
    panel.axhline(1, color=INK, linewidth=0.5, alpha=0.5)
    for place, curve in enumerate(curves):
        _line(panel, place, curve.steps, curve.values, f"{short(curve.name, 18)}: {curve.words}")
    panel.legend(loc="best", fontsize=9)


def _line(panel: Axes, place: int, steps: Any, values: Any, name: str) -> None:
    only = "o" if len(steps) == 1 else None
    panel.plot(
        steps,
        [value if _finite(value) else math.nan for value in values],
        linestyle=STYLES[place % len(STYLES)],
        color=LINES[place % len(LINES)],
        marker=only,
        label=short(name, 30).replace("$", r"\$").lstrip("_"),
    )


def _drawn(curve: Curve) -> tuple[list[int], list[float]]:
    width = math.ceil(len(curve.steps) / POINTS) or 1
    starts = range(0, len(curve.steps), width)
    cells = [[v for v in curve.values[at : at + width] if _finite(v)] for at in starts]
    return [curve.steps[at] for at in starts], [max(cell, default=math.nan) for cell in cells]


def _said(course: Course) -> str:
    words = []
    for curve in course.losses[:1]:
        finite = [value for value in curve.values if _finite(value)]
        odd = len(curve.values) - len(finite)
        span = f"{number(curve.values[0])} at step {curve.steps[0]} to {number(curve.values[-1])}"
        words.append(f"The loss goes from {span} at step {curve.steps[-1]}.")
        if odd:
            words.append(f"It is not finite at {odd} of {len(curve.values)} steps.")
    if course.accuracies:
        last = ", ".join(f"{curve.name} {curve.words}" for curve in course.accuracies)
        words.append(f"Right at the last evaluation: {last}.")
    if course.ended:
        words.append(course.ended)
    return " ".join(words)


def _numbers(course: Course) -> tuple[list[str], list[tuple[str, ...]]]:
    """One row a step at which anything was measured."""
    curves = course.losses + course.accuracies
    told = [dict(zip(curve.steps, _cells(curve), strict=True)) for curve in curves]
    steps = sorted({step for curve in curves for step in curve.steps})
    rows = [(str(step), *(cell.get(step, "") for cell in told)) for step in steps]
    return ["step", *(curve.name for curve in curves)], rows


def _cells(curve: Curve) -> list[str]:
    if not curve.counts:
        return [number(value) for value in curve.values]
    pairs = zip(curve.hits, curve.counts, strict=True)
    return [f"{hits:.10g} of {count:.10g}" for hits, count in pairs]


def _finite(value: float) -> bool:
    return math.isfinite(value)
