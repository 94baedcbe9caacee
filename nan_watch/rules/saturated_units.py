"""GRD008: units stand at an end of their range."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from nan_watch.course import Course, courses, once
from nan_watch.sampled.closed_units import ClosedUnits, closed_units, lacks_units
from probes.finding import Evidence, Finding, Verdict
from probes.run import Run

ROOT = re.compile(r"(model|<model>)([.\[]|$)")


@dataclass(frozen=True, slots=True)
class SaturatedUnits:
    """Most units of a Tanh, Sigmoid or Hardtanh stand at an end of their range for every sample.

    Within 1 % of its end the slope of tanh is under 2 % of its largest, and that of a sigmoid
    under 1 %: little that the loss asks for comes through. Told where it holds for more than a
    half of a module's units, plus `deviations` standard deviations of as many throws of a coin,
    at 32 positions on end, in at least four of the steps that are looked at (0, 1, 2, 4, 8, ...
    and every 64th). Unless the loss fell by `fall` of its start it is a warning; by `profits`,
    nothing is said. What the model gives out itself may stand at its ends: a loss of logarithms
    undoes the small slope. Gates inside an LSTM or GRU are not seen.

    Sick: a Tanh over inputs between 300 and 700, as they come from a table.
    Healthy: the same inputs, each column standardised.
    """

    deviations: float = 3.0
    fall: float = 0.1
    profits: float = 0.5

    code: ClassVar[str] = "GRD008"
    rule: ClassVar[str] = "saturated-units"
    family: ClassVar[Literal["health"]] = "health"

    def lacks(self, run: Run) -> str | None:
        """Shares of units, and a course to judge them by."""
        return lacks_units(run, "saturated_share")

    def judge(self, run: Run) -> Iterator[Finding]:
        """One finding a module."""
        yield from once(finding for course in courses(run) for finding in self._of(course))

    def _of(self, course: Course) -> Iterator[Finding]:
        if course.fall is not None and course.fall >= self.profits:
            return
        for found in closed_units(course, course.saturated, self.deviations):
            if not _is_last(course, found.site):
                yield course.said_of(self._finding(course, found))

    def _finding(self, course: Course, found: ClosedUnits) -> Finding:
        flat = course.fall is not None and course.fall < self.fall
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN if flat else Verdict.NOTE,
            message=f"{found.share:.0%} of the {found.units} units of `{found.site}` are "
            "saturated: they stand at an end of their range for every sample and pass almost no "
            f"gradient on, from step {found.step} at the latest.",
            fix="Scale down the weights or the inputs before it (Xavier, a LayerNorm), or lower "
            "the learning rate.",
            site=found.site,
            phase="forward",
            step=found.step,
            evidence=(
                Evidence(f"share of saturated units of `{found.site}`", found.share, found.limit),
                Evidence("fall of the loss, of its start", course.fall, self.fall),
            ),
        )


def _is_last(course: Course, site: str) -> bool:
    """Whether the model's own output is the next that was seen."""
    sites = course.outputs.sites
    after = sites[sites.index(site) + 1 :] if site in sites else ()
    return bool(after) and ROOT.match(after[0]) is not None
