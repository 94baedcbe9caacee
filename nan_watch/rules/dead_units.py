"""GRD007: units never open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from nan_watch.course import Course, courses, largest, once
from nan_watch.sampled.closed_units import ClosedUnits, closed_units, lacks_units
from probes.finding import Evidence, Finding, Verdict
from probes.run import Run


@dataclass(frozen=True, slots=True)
class DeadUnits:
    """Most units of a ReLU, GELU, SiLU or the like are zero whatever they are given.

    A unit that is closed for every sample has no gradient, and so nothing opens it again. Told
    where it holds for more than a half of a module's units, plus `deviations` standard deviations
    of as many throws of a coin: samples that are all alike close half of the units of fresh
    weights. A unit counts once it was closed at 32 positions on end, samples or tokens, in at
    least four of the steps that are looked at (0, 1, 2, 4, 8, ... and every 64th). Unless the
    loss fell by `fall` of its start it is a warning; by `profits`, nothing is said. Activations
    that are called as functions are not seen, and an output that is zero throughout is GRD003.

    Sick: a ReLU behind biases of -3, of which one in twenty units ever opens.
    Healthy: the same with biases of zero: half of the units open for any sample, others for the
        next.
    """

    deviations: float = 3.0
    fall: float = 0.1
    profits: float = 0.5

    code: ClassVar[str] = "GRD007"
    rule: ClassVar[str] = "dead-units"
    family: ClassVar[Literal["health"]] = "health"

    def lacks(self, run: Run) -> str | None:
        """Shares of units, and a course to judge them by."""
        return lacks_units(run, "dead_share")

    def judge(self, run: Run) -> Iterator[Finding]:
        """One finding a module."""
        yield from once(finding for course in courses(run) for finding in self._of(course))

    def _of(self, course: Course) -> Iterator[Finding]:
        if course.fall is not None and course.fall >= self.profits:
            return
        for found in closed_units(course, course.dead, self.deviations):
            if largest(course.outputs.of(found.site)[:, None], axis=0)[0] != 0:
                yield course.said_of(self._finding(course, found))

    def _finding(self, course: Course, found: ClosedUnits) -> Finding:
        flat = course.fall is not None and course.fall < self.fall
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN if flat else Verdict.NOTE,
            message=f"{found.share:.0%} of the {found.units} units of `{found.site}` are dead: "
            "they give zero for every sample and get no gradient, from step "
            f"{found.step} at the latest.",
            fix="Look at the biases and the scale of what comes before it, lower the learning "
            "rate, or take a LeakyReLU or GELU.",
            site=found.site,
            phase="forward",
            step=found.step,
            evidence=(
                Evidence(f"share of dead units of `{found.site}`", found.share, found.limit),
                Evidence("fall of the loss, of its start", course.fall, self.fall),
            ),
        )
