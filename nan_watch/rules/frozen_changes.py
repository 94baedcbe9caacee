"""GRD010: frozen parameters that change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from nan_watch.course import Course, lacks_gradients, long_enough, once
from probes.finding import Evidence, Finding, Verdict
from probes.run import Run


@dataclass(frozen=True, slots=True)
class FrozenChanges:
    """Parameters that take no gradient held other numbers at the end than at the start.

    An optimizer writes whatever has a `grad`, zeros included: momentum, Adam's averages and
    weight decay go on where a parameter was frozen after it had been trained and its gradient
    was set to zero instead of None. That is a warning. Where there is no gradient the optimizer
    passes over it and other code wrote it, such as a moving average of weights: a note.

    Sick: `layer.requires_grad_(False)` after some steps, with
        `optimizer.zero_grad(set_to_none=False)` and weight decay.
    Healthy: the same with `optimizer.zero_grad()`.
    """

    steps: int = 1

    code: ClassVar[str] = "GRD010"
    rule: ClassVar[str] = "frozen-changes"
    family: ClassVar[Literal["health"]] = "health"

    def lacks(self, run: Run) -> str | None:
        """Gradient norms, and which frozen parameters changed."""
        found = list(long_enough(run, self.steps))
        if found and all(course.changed is None for course in found):
            return "the run does not say whether frozen parameters changed"
        return lacks_gradients(run, self.steps)

    def judge(self, run: Run) -> Iterator[Finding]:
        """At most one finding a course, at the first such parameter."""
        found = (self._of(course) for course in long_enough(run, self.steps))
        yield from once(finding for finding in found if finding is not None)

    def _of(self, course: Course) -> Finding | None:
        got = course.reached
        changed = [
            (not got[i], i) for i, s in enumerate(course.grads.sites) if s in (course.changed or ())
        ]
        if not changed:
            return None
        foreign, place = min(changed)
        site = course.grads.sites[place]
        how = (
            "though it has no gradient, so other code wrote it"
            if foreign
            else "by the optimizer, because its `grad` is there"
        )
        more = f" ({len(changed)} frozen parameters did)" if len(changed) > 1 else ""
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.NOTE if foreign else Verdict.WARN,
            message=f"`{site}` is frozen and changed, {how}{more}.",
            fix="Nothing, if a moving average is kept there."
            if foreign
            else "Set its `grad` to None as it is frozen, or take it out of the optimizer.",
            site=site,
            phase="update",
            evidence=(Evidence("frozen parameters that changed", len(changed), 0),),
        )
        return course.said_of(finding)
