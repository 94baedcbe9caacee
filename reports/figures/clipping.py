"""The clip ledger: the norm of all gradients before clipping, and what was left of it."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from markupsafe import Markup

from reports.figures.curves import POINTS, Curve
from reports.figures.figure import Figure, identifier, number, thinned
from reports.figures.svg import INK, LINES, from_matplotlib, key, log_scale, panels


@dataclass(frozen=True, slots=True)
class Ledger:
    """By step: the total norm before clipping, and the factor that the gradients were given.

    of: how a reader calls the part, after a colon.
    """

    part: str
    total: Curve
    factor: Curve
    of: str = ""


def draw(ledger: Ledger) -> Figure:
    """The figure of a ledger with at least one step."""
    many = len(ledger.total.steps) > POINTS
    return Figure(
        id=identifier(f"clip-{ledger.part}"),
        title=f"Clipping{ledger.of}",
        alt=_said(ledger),
        svg=_plot(ledger),
        table=thinned(["step", "norm before", "factor", "norm after"], _rows(ledger)),
        notes=(
            "Solid: the norm of all gradients before clipping; dashed: after it. Where the lines "
            "part, the step was clipped.",
            *((f"Every {_every(ledger)}th step is drawn.",) if many else ()),
        ),
    )


def _every(ledger: Ledger) -> int:
    return math.ceil(len(ledger.total.steps) / POINTS) or 1


def _pairs(ledger: Ledger) -> list[tuple[int, float, float]]:
    factors = dict(zip(ledger.factor.steps, ledger.factor.values, strict=True))
    totals = zip(ledger.total.steps, ledger.total.values, strict=True)
    return [(step, total, factors[step]) for step, total in totals if step in factors]


def _plot(ledger: Ledger) -> Markup:
    pairs = _pairs(ledger)[:: _every(ledger)]
    steps = [step for step, _, _ in pairs]
    before = [total if 0 < total < math.inf else math.nan for _, total, _ in pairs]
    after = [total * factor for total, (_, _, factor) in zip(before, pairs, strict=True)]
    with panels(1, 2.6, 3) as (canvas, (panel,)):
        panel.set_title("norm of all gradients, log scale")
        mark = "o" if len(steps) == 1 else None
        panel.plot(steps, before, color=LINES[0], marker=mark, label="before clipping")
        panel.plot(steps, after, color=LINES[1], marker=mark, linestyle="--", label="after it")
        if any(math.isfinite(value) for value in before):
            log_scale(panel)
        odd = [step for step, total, _ in pairs if not math.isfinite(total)]
        if odd:
            high = panel.get_xaxis_transform()
            panel.plot(odd, [0.97] * len(odd), "x", color=INK, transform=high, label="not finite")
        key(panel)
        return from_matplotlib(canvas, identifier(f"clip-{ledger.part}"))


def _said(ledger: Ledger) -> str:
    pairs = _pairs(ledger)
    known = [(step, factor) for step, _, factor in pairs if math.isfinite(factor)]
    odd = len(pairs) - len(known)
    words = [f"{odd} of {len(pairs)} steps had a total norm that is not finite."] if odd else []
    bitten = [(step, factor) for step, factor in known if factor < 1]
    if not bitten:
        return " ".join([*words, f"None of {len(known)} steps was clipped."])
    step, least = min(bitten, key=lambda pair: pair[1])
    middle = statistics.median(factor for _, factor in known)
    words.append(
        f"{len(bitten)} of {len(known)} steps were clipped; the median factor is {number(middle)}, "
        f"the smallest {number(least)}, at step {step}."
    )
    return " ".join(words)


def _rows(ledger: Ledger) -> list[tuple[str, ...]]:
    return [
        (str(step), number(total), number(factor), number(total * factor))
        for step, total, factor in _pairs(ledger)
    ]
