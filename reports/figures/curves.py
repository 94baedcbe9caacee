"""The course of one suite: its loss, and how much of every head was right."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from markupsafe import Markup

from probes.finding import out_of
from reports.figures.figure import Figure, identifier, number, thinned
from reports.figures.svg import (
    ACROSS,
    FITS,
    INK,
    LINES,
    from_matplotlib,
    key,
    log_scale,
    mathless,
    panels,
    short,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
DRAWN = 8  # lines of a panel
BOUNDS = 6  # floors and ceilings of a panel
NAME = 56  # characters of a level's name
APART = 9.5  # points from one name to the next
POINTS = 1500  # of a line; beyond it the largest of neighbours stands for them
Z = 1.959964  # of a 95 % interval


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
            return out_of(self.hits[-1], self.counts[-1])
        return number(self.values[-1])


@dataclass(frozen=True, slots=True)
class Bound:
    """A level that a line is to be held against: what needs no learning, or what caps it.

    head: the accuracy's or the loss's name; None of all.
    """

    kind: Literal["floor", "ceiling"]
    name: str
    head: str | None
    accuracy: float | None
    loss: float | None

    @property
    def words(self) -> str:
        """Such as `floor, key: majority`."""
        return f"{self.kind}{', ' + self.head if self.head else ''}: {self.name}"


@dataclass(frozen=True, slots=True)
class Course:
    """A suite or another stretch of training: its losses first `<loss>`, then its parts."""

    part: str
    title: str
    losses: tuple[Curve, ...]
    accuracies: tuple[Curve, ...]
    ended: str | None = None
    bounds: tuple[Bound, ...] = ()


def draw(course: Course) -> Figure:
    """The figure of a course that has at least one line."""
    log = all(value > 0 for curve in course.losses for value in curve.values if _finite(value))
    notes = [] if log else ["The loss is not above zero throughout, so its scale is linear."]
    if any(len(curve.steps) > POINTS for curve in course.losses):
        notes.append(f"Lines of more than {POINTS} steps are drawn by the maximum of neighbours.")
    if course.accuracies:
        notes.append("Shaded: the 95 % interval (Wilson) of each share, by what was counted.")
    most = max(len(course.losses), len(course.accuracies))
    if most > DRAWN:
        notes.append(f"{DRAWN} of {most} lines are drawn; the table holds all of them.")
    notes += _of_bounds(course)
    return Figure(
        id=identifier(course.part),
        title=course.title,
        alt=_said(course),
        svg=_plot(course, log),
        table=thinned(*_numbers(course)),
        notes=tuple(notes),
        badness=sum(not _finite(value) for curve in course.losses for value in curve.values),
    )


def _plot(course: Course, log: bool) -> Markup:
    kinds = [kind for kind in (course.losses, course.accuracies) if kind]
    keys = max(min(len(lines), DRAWN) for lines in kinds) + 1
    longest = max(len(_label(curve)) for lines in kinds for curve in lines[:DRAWN])
    across = 1 if len(kinds) > 1 and longest > FITS else ACROSS
    with panels(len(kinds), 3.3, keys, across) as (canvas, axes):
        for panel, lines in zip(axes, kinds, strict=True):
            if lines is course.losses:
                _losses(panel, lines[:DRAWN], log, across)
                levels = [(each, each.loss) for each in course.bounds]
                _levels(
                    panel, telling([(b, at) for b, at in levels if at and (at > 0 or not log)], -1)
                )
            else:
                _accuracies(panel, lines[:DRAWN], across)
                levels = [(each, each.accuracy) for each in course.bounds]
                _levels(panel, telling(levels))
        return from_matplotlib(canvas, identifier(course.part))


def _label(curve: Curve) -> str:
    """What the key calls the line, with its last count where it has one."""
    return f"{short(curve.name, 22)}: {curve.words}" if curve.counts else short(curve.name, 30)


def _losses(panel: Axes, curves: tuple[Curve, ...], log: bool, across: int) -> None:
    panel.set_title("loss, log scale" if log else "loss")
    for place, curve in enumerate(curves):
        steps, values = _drawn(curve)
        _line(panel, place, steps, values, _label(curve))
        odd = [s for s, v in zip(curve.steps, curve.values, strict=True) if not _finite(v)]
        if odd:
            high = panel.get_xaxis_transform()  # x in steps, y in the panel's own height
            odd = odd[:: math.ceil(len(odd) / 60)]
            panel.plot(odd, [0.97] * len(odd), "x", color=INK, transform=high, label="not finite")
    if log and any(_finite(value) for curve in curves for value in curve.values):
        log_scale(panel)
    if len(curves) > 1 or panel.get_legend_handles_labels()[1][1:]:
        key(panel, across)


def _accuracies(panel: Axes, curves: tuple[Curve, ...], across: int) -> None:
    panel.set_title("right, share of what was counted")
    panel.set_ylim(-0.03, 1.05)
    panel.axhline(1, color=INK, linewidth=0.5, alpha=0.5)
    for place, curve in enumerate(curves):
        _line(panel, place, curve.steps, curve.values, _label(curve))
        low, high = zip(*_intervals(curve), strict=True)
        colour = LINES[place % len(LINES)]
        panel.fill_between(curve.steps, low, high, color=colour, alpha=0.13, linewidth=0)
    key(panel, across)


def wilson(hits: float, count: float) -> tuple[float, float]:
    """The 95 % interval of a share, after Wilson (1927); all of 0 to 1 where nothing is known."""
    if not (_finite(hits) and _finite(count) and 0 <= hits <= count and count > 0):
        return 0.0, 1.0
    share, weight = hits / count, Z * Z / count
    middle = (share + weight / 2) / (1 + weight)
    half = Z * math.sqrt(share * (1 - share) / count + weight / (4 * count)) / (1 + weight)
    return max(0.0, middle - half), min(1.0, middle + half)


def _intervals(curve: Curve) -> Iterator[tuple[float, float]]:
    for hits, count in zip(curve.hits, curve.counts, strict=True):
        yield wilson(hits, count)


def telling(
    levels: Sequence[tuple[Bound, float | None]], sign: int = 1
) -> list[tuple[Bound, float]]:
    """Of each head the hardest and the easiest floor, and the lowest ceiling; a few in all.

    sign: 1 where more is better, as of what is right; -1 where less is, as of a loss.
    """
    heads: dict[tuple[str, str | None], list[tuple[Bound, float]]] = {}
    for bound, level in levels:
        if level is not None and _finite(level):
            heads.setdefault((bound.kind, bound.head), []).append((bound, level))
    hardest, easiest = [], []
    for (kind, _), every in heads.items():
        ranked = sorted(every, key=lambda each: sign * each[1])
        hardest.append(ranked[-1] if kind == "floor" else ranked[0])
        if kind == "floor":
            easiest.append(ranked[0])
    kept = [*hardest, *(each for each in easiest if each not in hardest)]
    return kept[:BOUNDS]


def _of_bounds(course: Course) -> Iterator[str]:
    """What floors and ceilings are, and which of them are drawn."""
    kinds = {bound.kind for bound in course.bounds}
    if "floor" in kinds:
        yield "Dotted: floors, which need no input to reach; the hardest and the easiest of each."
    if "ceiling" in kinds:
        yield "Long dashes: ceilings, which no model passes on this data; the lowest of each."
    if kinds:
        yield f"All {len(course.bounds)} of them stand at the end of the table."


def _levels(panel: Axes, bounds: Sequence[tuple[Bound, float]]) -> None:
    """Dotted floors, dashed ceilings, each named beside its line; those of one level share one."""
    by_level: dict[tuple[str, float], list[str]] = {}
    for bound, level in bounds:
        by_level.setdefault((bound.kind, round(level, 4)), []).append(bound.words)
    for kind, level in by_level:
        style = (0, (1, 2)) if kind == "floor" else (0, (6, 3))
        panel.axhline(level, color=INK, linewidth=0.9, linestyle=style, alpha=0.75)
    panel.get_ylim()  # the scale is settled
    scale = 72 / panel.figure.dpi
    ranked = sorted(by_level.items(), key=lambda item: item[0][1])
    heights = [float(panel.transData.transform((0, at))[1]) * scale for (_, at), _ in ranked]
    for ((_, level), names), shift in zip(ranked, _spread(heights), strict=True):
        panel.annotate(
            mathless(short(f"{' = '.join(names)} ({number(level)})", NAME)),
            xy=(0.99, level),  # on the right, where curves are seldom steep
            xycoords=("axes fraction", "data"),
            xytext=(0, 2 + shift),
            textcoords="offset points",
            ha="right",
            fontsize=8,
        )


def _spread(heights: Sequence[float]) -> list[float]:
    """By how much names at these rising heights are moved so that none hides another."""
    groups: list[list[float]] = []  # of names that stand close, around the mean of their levels
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and _bottom(groups[-1]) < _bottom(groups[-2], len(groups[-2])):
            groups[-2:] = [groups[-2] + groups[-1]]
    return [
        _bottom(group, place) - height for group in groups for place, height in enumerate(group)
    ]


def _bottom(group: Sequence[float], place: int = 0) -> float:
    """Where the name at this place of a group stands."""
    return fmean(group) + APART * (place - (len(group) - 1) / 2)


def _line(panel: Axes, place: int, steps: Any, values: Any, name: str) -> None:
    only = "o" if len(steps) == 1 else None
    panel.plot(
        steps,
        [value if _finite(value) else math.nan for value in values],
        linestyle=STYLES[place % len(STYLES)],
        color=LINES[place % len(LINES)],
        marker=only,
        label=mathless(name).lstrip("_"),
    )


def _drawn(curve: Curve) -> tuple[list[int], list[float]]:
    width = math.ceil(len(curve.steps) / POINTS) or 1
    starts = range(0, len(curve.steps), width)
    cells = [[v for v in curve.values[at : at + width] if _finite(v)] for at in starts]
    return [curve.steps[at] for at in starts], [max(cell, default=math.nan) for cell in cells]


def _said(course: Course) -> str:
    words: list[str] = []
    several = bool(course.losses) and course.losses[0].name != "loss"  # of as many runs
    for curve in course.losses[: DRAWN if several else 1]:
        words += _gone(curve, f"The loss of {curve.name}" if several else "The loss")
    if course.accuracies:
        between, after = ("; ", ":") if several else (", ", "")
        last = between.join(f"{curve.name}{after} {curve.words}" for curve in course.accuracies)
        words.append(f"Right at the last evaluation: {last}.")
    words += _bounded(course)
    if course.ended:
        words.append(course.ended)
    return " ".join(words)


def _gone(curve: Curve, called: str) -> Iterator[str]:
    """From where to where a loss goes, and whether it is finite all the way."""
    odd = sum(not _finite(value) for value in curve.values)
    if len(curve.steps) == 1:
        yield f"{called} is {number(curve.values[0])} at step {curve.steps[0]}, the only one."
    else:
        ends = f"{number(curve.values[0])} at step {curve.steps[0]} to {number(curve.values[-1])}"
        yield f"{called} goes from {ends} at step {curve.steps[-1]}."
    if odd:
        yield f"It is not finite at {odd} of {len(curve.values)} steps."


def _bounded(course: Course) -> Iterator[str]:
    """Where the last value of a head lies beside its floors and ceilings."""
    last = {curve.name: curve.values[-1] for curve in course.accuracies}
    for bound, at in telling([(each, each.accuracy) for each in course.bounds]):
        value = last.get(bound.head or "")
        if value is None or not _finite(value):
            continue
        level = f"the {bound.kind} {bound.name} ({number(at)})"
        if bound.kind == "floor" and value <= at:
            yield f"`{bound.head}` ends at or below {level}."
        if bound.kind == "ceiling" and value >= at:
            yield f"`{bound.head}` ends at {level}."


def _numbers(course: Course) -> tuple[list[str], list[tuple[str, ...]]]:
    """One row a step at which anything was measured, then the levels that they are held against."""
    curves = course.losses + course.accuracies
    told = [dict(zip(curve.steps, _cells(curve), strict=True)) for curve in curves]
    steps = sorted({step for curve in curves for step in curve.steps})
    rows = [(str(step), *(cell.get(step, "") for cell in told)) for step in steps]
    rows += [(bound.words, *(_level(bound, curve) for curve in curves)) for bound in course.bounds]
    return ["step", *(curve.name for curve in curves)], rows


def _level(bound: Bound, curve: Curve) -> str:
    level = bound.accuracy if curve.counts else bound.loss
    of_all = bound.head is None and (curve.counts or curve.name == "loss")
    return number(level) if level is not None and (of_all or bound.head == curve.name) else ""


def _cells(curve: Curve) -> list[str]:
    if not curve.counts:
        return [number(value) for value in curve.values]
    pairs = zip(curve.hits, curve.counts, strict=True)
    return [out_of(hits, count) for hits, count in pairs]


def _finite(value: float) -> bool:
    return math.isfinite(value)
