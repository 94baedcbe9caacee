"""What a decision rests on: entries of the input, marked by sign and size; and modules, as bars."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from reports.figures.figure import Figure, Table, identifier, number, thinned
from reports.figures.svg import picture, rectangle, short, text

LOOSE = 0.05  # of the difference that is explained: a delta above it is flagged
TALL, LABELS, WIDE, ROWS = 20.0, 300.0, 960.0, 40


@dataclass(frozen=True, slots=True)
class Source:
    """The entries of one batch key: signed attributions, names, and which are padding."""

    key: str
    values: tuple[float, ...]
    names: tuple[str, ...]
    padding: tuple[bool, ...]

    @property
    def weight(self) -> float:
        """The sum of magnitudes, over what is finite."""
        return sum(abs(each) for each in self.values if math.isfinite(each))


@dataclass(frozen=True, slots=True)
class Attribution:
    """One decision of the model and what it is attributed to.

    score, baseline_score: of the chosen output, at the input and at the baseline. delta: by how
    much the attributions miss their difference. steps: of the integral.
    """

    name: str
    decision: str
    sample: str
    score: float
    baseline_score: float
    baseline: str
    delta: float
    steps: int
    sources: tuple[Source, ...]

    @property
    def loose(self) -> bool:
        """Whether the integral did not converge, so that the numbers are not to be trusted."""
        span = abs(self.score - self.baseline_score)
        return not abs(self.delta) <= LOOSE * max(span, 1e-6)


@dataclass(frozen=True, slots=True)
class Conductance:
    """How much of a decision flows through each module."""

    name: str
    decision: str
    modules: tuple[str, ...]
    values: tuple[float, ...]


def draw(attribution: Attribution) -> Figure:
    """The figure of one decision: a line of marked entries for each source."""
    most = max(
        (abs(v) for s in attribution.sources for v in s.values if math.isfinite(v)), default=0
    )
    lines = [_line(source, most or 1.0) for source in attribution.sources]
    notes = [
        f"Integrated gradients over {attribution.steps} steps from the baseline, "
        f"{attribution.baseline}: the score is {number(attribution.baseline_score)} there and "
        f"{number(attribution.score)} here. Blue with a solid line speaks for the decision, orange "
        "with a dotted line against it.",
        f"Convergence delta {number(attribution.delta)}"
        + (": too large, do not trust these numbers." if attribution.loose else "."),
    ]
    return Figure(
        id=identifier(attribution.name),
        title=f"{attribution.decision}: {attribution.sample}",
        alt=_said(attribution),
        svg=Markup("").join(lines),
        table=thinned(
            ("source", "entry", "attribution", "remark"), list(_rows(attribution)), most=400
        ),
        notes=tuple(notes),
        prose=True,
    )


def _line(source: Source, most: float) -> Markup:
    marks = Markup(" ").join(_mark(source, place, most) for place in range(len(source.values)))
    return Markup('<p class="marked"><code>{}</code> {}</p>').format(source.key, marks)


def _mark(source: Source, place: int, most: float) -> Markup:
    value, name = source.values[place], source.names[place]
    if not math.isfinite(value):
        return Markup('<mark class="nan" title="not finite">{} (NaN)</mark>').format(name)
    size = abs(value) / most
    if size < 0.02 or source.padding[place]:
        kind = ' class="pad"' if source.padding[place] else ""
        return Markup('<span{} title="{}">{}</span>').format(Markup(kind), number(value), name)
    return Markup('<mark class="{}" style="--a:{:.2f}" title="{}">{}</mark>').format(
        "for" if value > 0 else "against", size, number(value), name
    )


def _said(attribution: Attribution) -> str:
    total = sum(source.weight for source in attribution.sources)
    words = []
    if total > 0:
        shares = ", ".join(
            f"`{source.key}` {source.weight / total:.0%}" for source in attribution.sources
        )
        words.append(f"The decision rests on {shares}.")
        value, name = max(
            (abs(v), source.names[place])
            for source in attribution.sources
            for place, v in enumerate(source.values)
            if math.isfinite(v)
        )
        words.append(f"The largest share of one entry is {value / total:.0%}, of `{name}`.")
    else:
        words.append("No entry has any attribution: the decision rests on none of them.")
    odd = sum(not math.isfinite(v) for source in attribution.sources for v in source.values)
    if odd:
        words.append(f"{odd} attributions are not finite.")
    if attribution.loose:
        words.append(f"The convergence delta, {number(attribution.delta)}, is too large.")
    return " ".join(words)


def _rows(attribution: Attribution) -> Iterator[tuple[str, ...]]:
    for source in attribution.sources:
        for place, value in enumerate(source.values):
            remark = "padding" if source.padding[place] else ""
            yield source.key, source.names[place], number(value), remark


def draw_conductance(conductance: Conductance) -> Figure:
    """Bars of the modules, the largest first."""
    pairs = zip(conductance.modules, conductance.values, strict=True)
    ranked = sorted(pairs, key=lambda pair: -abs(pair[1]) if math.isfinite(pair[1]) else -math.inf)
    finite = [(name, value) for name, value in ranked if math.isfinite(value)]
    said = (
        f"Most flows through `{finite[0][0]}`, {number(finite[0][1])}." if finite else "No module."
    )
    odd = len(ranked) - len(finite)
    return Figure(
        id=identifier(conductance.name),
        title=f"Conductance of modules: {conductance.decision}",
        alt=said + (f" {odd} modules have a conductance that is not finite." if odd else ""),
        svg=picture(WIDE, min(len(ranked), ROWS) * TALL + 8, _bars(finite[:ROWS]), "cells"),
        table=Table(
            ("module", "conductance"), tuple((name, number(value)) for name, value in ranked[:200])
        ),
        notes=("Lengths are magnitudes; dotted bars speak against the decision.",),
    )


def _bars(pairs: list[tuple[str, float]]) -> Iterator[Markup]:
    longest = max((abs(value) for _, value in pairs), default=0) or 1.0
    for place, (name, value) in enumerate(pairs):
        wide = (WIDE - LABELS - 90) * abs(value) / longest
        yield text(LABELS - 8, place * TALL + 13, short(name, 46), "end")
        kind = "bar" if value >= 0 else "bar against"
        yield rectangle(LABELS, place * TALL + 3, max(wide, 1), TALL - 7, kind)
        yield text(LABELS + wide + 8, place * TALL + 13, number(value))
