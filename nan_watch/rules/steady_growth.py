"""GRD011: numbers grow by a steady factor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from nan_watch.course import Course, Doubles, lacks_gradients, long_enough, once
from nan_watch.growth import Climb, climb
from probes.finding import Evidence, Finding, Verdict
from probes.run import Run

Stream = tuple[str, str, float, Doubles]
"""What it is, its site, the power of two at which it overflows, and its numbers, (step,)."""


@dataclass(frozen=True, slots=True)
class SteadyGrowth:
    """The loss, an output or the gradients grow by a steady factor, which ends in an overflow.

    Their logarithm is a straight line over the last steps, at least `steps` of them and up to the
    last: no step is further from it than `off` of the whole rise, which is `bits` powers of two or
    more. Told where as many steps again would reach the range of float32: for the loss 2^128, for
    outputs and gradients 2^64, because losses, norms and Adam square them. What is healthy grows
    by a power of the step at most, as the logits of a classifier do, and bends on such a scale;
    and none comes half of the way.

    Sick: a state that is carried from batch to batch times 1.5, before a LayerNorm hides it.
    Healthy: the same state times 0.9.
    """

    steps: int = 10
    off: float = 0.1
    bits: float = 16.0
    loss_range: float = 128.0
    range: float = 64.0

    code: ClassVar[str] = "GRD011"
    rule: ClassVar[str] = "steady-growth"
    family: ClassVar[Literal["health"]] = "health"

    def lacks(self, run: Run) -> str | None:
        """As many steps as a line needs."""
        return lacks_gradients(run, self.steps)

    def judge(self, run: Run) -> Iterator[Finding]:
        """At most one finding a course: what overflows first."""
        found = (self._of(course) for course in long_enough(run, self.steps))
        yield from once(finding for finding in found if finding is not None)

    def _of(self, course: Course) -> Finding | None:
        if np.isinf([course.total[-1], course.losses[-1]]).any():
            return None  # it has come, and a finding of its own tells the growth
        steps = course.grads.steps
        found = []
        for what, site, edge, numbers in self._streams(course):
            own = course.outputs.steps if site in course.outputs.sites else steps
            grown = self._grown(own, numbers, edge)
            if grown is not None:
                left = (edge - grown.end) / grown.slope
                found.append((left, what, site, grown))
        if not found:
            return None
        left, what, site, grown = min(found, key=lambda each: each[0])
        return course.said_of(self._finding(what, site, grown, max(0, int(left))))

    def _streams(self, course: Course) -> Iterator[Stream]:
        for column, site in enumerate(course.outputs.sites):
            numbers = course.outputs.values[:, column]
            yield f"the largest number in the output of `{site}`", site, self.range, numbers
        yield "the total gradient norm", "<optimizer>", self.range, course.total
        yield "the loss", "<loss>", self.loss_range, np.abs(course.losses)

    def _grown(self, steps: npt.NDArray[np.int64], numbers: Doubles, edge: float) -> Climb | None:
        there = ~np.isnan(numbers)
        steps, numbers = steps[there], numbers[there]
        if len(numbers) < self.steps or not 0 < numbers[-1] < np.inf:
            return None
        with np.errstate(divide="ignore"):
            grown = climb(steps, np.log2(numbers), self.steps, self.off)
        if grown is None or grown.rise < self.bits or grown.end + grown.rise < edge:
            return None
        return grown

    def _finding(self, what: str, site: str, grown: Climb, left: int) -> Finding:
        factor, last = 2.0**grown.slope, 2.0**grown.end
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"{what} grows by a steady factor of {factor:.3g} a step since step "
            f"{grown.first}, to {last:.3g}: at this rate it overflows in {left} steps.",
            fix="Look for what is multiplied in every step: a state that is carried on, a scale "
            "that is learned, a learning rate past what is stable.",
            site=site,
            step=grown.first,
            evidence=(
                Evidence("factor a step", factor, 1),
                Evidence("at the last step", last, step=grown.first + grown.span),
                Evidence("steps until it overflows", left, grown.span),
            ),
        )
