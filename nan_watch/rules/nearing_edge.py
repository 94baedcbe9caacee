"""GRD012: arguments near the edge at which a function gives no finite number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from nan_watch.course import Course, courses, once
from nan_watch.growth import Climb, climb
from probes.finding import Evidence, Finding, Verdict
from probes.run import Run


@dataclass(frozen=True, slots=True)
class NearingEdge:
    """The argument of a log, root, division or exp goes to its edge at a steady pace.

    Looked at in a few steps (1, 2, 4, 8, ... and every 256th) of those that `watch.step` is handed,
    at every line of the forward pass: the smallest argument above zero of logs, roots and
    divisions, the largest of exp, the largest number of float16. What is left of the dtype's range
    is counted in bits, powers of two. Told where that fell in a straight line over the last
    `looks` looks or more, by `bits` or more, and as many steps again would leave none: float32
    holds 126 bits below 1, so that 1e-19 is half of the way, where no healthy argument comes.

    Sick: `x / var.sqrt()`, a running variance of a column that is constant: it halves every step.
    Healthy: `x / (var + 1e-5).sqrt()`.
    """

    looks: int = 5
    off: float = 0.1
    bits: float = 6.0

    code: ClassVar[str] = "GRD012"
    rule: ClassVar[str] = "nearing-edge"
    family: ClassVar[Literal["health"]] = "health"

    def lacks(self, run: Run) -> str | None:
        """Looks at operators."""
        found = list(courses(run))
        if not found:
            return "the run holds no gradient norms"
        if not any(len(course.edges.steps) for course in found):
            return "no log, root, division or exp was seen in a step handed to `watch.step`"
        return None

    def judge(self, run: Run) -> Iterator[Finding]:
        """At most one finding a course: what reaches its edge first."""
        found = (self._of(course) for course in courses(run))
        yield from once(finding for finding in found if finding is not None)

    def _of(self, course: Course) -> Finding | None:
        falling = []
        for column, place in enumerate(course.edges.sites):
            bits = course.edges.values[:, column]
            there = ~np.isnan(bits)
            fall = climb(course.edges.steps[there], -bits[there], self.looks, self.off)
            if fall is not None and fall.rise >= self.bits and 0 < -fall.end <= fall.rise:
                falling.append((-fall.end / fall.slope, place, fall))
        if not falling:
            return None
        left, place, fall = min(falling, key=lambda each: each[0])
        return course.said_of(self._finding(place, fall, int(left)))

    def _finding(self, place: str, fall: Climb, left: int) -> Finding:
        what, _, source = place.rpartition(" at ")
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"the {place} nears the edge of its range by a factor of {2**fall.slope:.3g} a "
            f"step: {-fall.end:.0f} bits are left of {-fall.start:.0f}, and at this rate none in "
            f"{left} steps.",
            fix=f"Keep it off its edge at {source}: add an eps, clamp it, or compute it in the "
            "domain of logarithms.",
            op=what.rpartition(" of ")[2] if " of aten." in what else None,
            phase="forward",
            step=fall.first + fall.span,
            source=source,
            evidence=(
                Evidence("bits left", -fall.start, unit="bits", step=fall.first),
                Evidence("bits left", -fall.end, fall.rise, "bits", fall.first + fall.span),
                Evidence("steps until none is left", left, fall.span),
            ),
        )
