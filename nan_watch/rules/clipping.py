"""GRD005: clipping that always or never bites."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from nan_watch.course import Course, Doubles, lacks_gradients, level, long_enough, once
from nan_watch.rules.vast_source import Source, source_of
from probes.finding import Evidence, Finding, Verdict
from probes.run import Run


@dataclass(frozen=True, slots=True)
class Clipping:
    """The clip limit does nothing, or decides the size of every step.

    Clipping is there for outliers. Where every one of `steps` steps was clipped, the size of the
    gradient no longer counts and the limit acts as a learning rate; where of `never` steps none
    was, it could as well be absent. Both can be meant, so they are notes. It is a warning where
    the median factor is under `harsh` and no step moved a weight by `crawl` of its norm (about
    1e-3 is usual): under SGD a thousandth of the gradient is a thousandth of the step, while Adam
    divides by the size again and does not care. So it is where the size is known to come from a
    number near zero, under `nothing`, that the code divides by, takes the log or the root of, and
    an output's gradient is nearly one over it: what is left is then the direction of a few samples.
    Where norms are over `vast`, or nine of ten lie over a range of `wide`, no limit is advised.

    Sick: `clip_grad_norm_(parameters, 1e-3)` on gradients of norm 5.
    Healthy: a limit of about the 90th percentile of the norms.
    """

    steps: int = 50
    never: int = 100
    harsh: float = 1e-3
    crawl: float = 1e-4
    nothing: float = 1e-6
    vast: float = 1e6
    wide: float = 1e3

    code: ClassVar[str] = "GRD005"
    rule: ClassVar[str] = "clipping-always-or-never"
    family: ClassVar[Literal["health"]] = "health"

    def lacks(self, run: Run) -> str | None:
        """Clip factors, which are known where clipping goes through the watch, or where it sees
        the gradients both as they are accumulated and as the optimizer takes them.
        """
        why = lacks_gradients(run, self.steps)
        if why is None and not any(
            np.isfinite(course.factor).any() for course in long_enough(run, self.steps)
        ):
            return "no clipping went through `watch.clip_grad_norm_`"
        return why

    def judge(self, run: Run) -> Iterator[Finding]:
        """At most one finding a course."""
        found = (self._of(course) for course in long_enough(run, self.steps))
        yield from once(finding for finding in found if finding is not None)

    def _of(self, course: Course) -> Finding | None:
        there = np.isfinite(course.factor) & np.isfinite(course.total)
        factors, norms = course.factor[there], course.total[there]
        largest = f"the largest total norm was {norms.max(initial=0):.3g}"
        source: Source | None = None
        if len(factors) >= self.steps and (factors < 1).all():
            middle = level(factors)
            source = source_of(course, self.nothing) if middle < self.harsh else None
            slow = middle < self.harsh and course.moved < self.crawl
            verdict = Verdict.WARN if slow or source else Verdict.NOTE
            message = (
                f"clipping leaves {middle:.3g} of the gradient norm in each of {len(factors)} "
                f"steps (medians: {level(factors * norms):.3g} of {level(norms):.3g}); {largest}"
                f"{'' if source is None else f', while {source}'}."
            )
            fix = self._fix(norms, source)
        elif len(factors) >= self.never and (factors == 1).all():
            verdict, middle = Verdict.NOTE, 1.0
            message = f"clipping never bit in {len(factors)} steps; {largest}."
            fix = "Nothing, if it is there as a safety net."
        else:
            return None
        return course.said_of(
            Finding(
                code=self.code,
                rule=self.rule,
                verdict=verdict,
                message=message,
                fix=fix,
                site="<optimizer>",
                source=None if source is None else source.line,
                phase="update",
                evidence=(
                    Evidence("median clip factor", middle, self.harsh),
                    Evidence("steps with clipping", len(factors), self.steps),
                    Evidence("largest update over its weights", course.moved, self.crawl),
                ),
            )
        )

    def _fix(self, norms: Doubles, source: Source | None) -> str:
        if source is not None:
            return (
                f"Keep it off 0 at {source.line} by what makes sense there (`F.softplus(x) + eps`, "
                "`.clamp(min=eps)`; an eps of its usual size), before anything is changed about "
                "the limit."
            )
        low, usual = np.quantile(norms, (0.1, 0.9))
        if usual > self.vast or usual > self.wide * low:
            return (
                "Look for what makes the gradients so large before the limit is changed: a "
                "division by nearly 0, targets that are not scaled, or a sum for a mean."
            )
        return (
            f"Raise the limit to about {usual:.2g}, under which nine of ten norms lie, or make "
            "the loss a mean instead of a sum."
        )
