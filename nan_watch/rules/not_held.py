"""GRD009: a parameter that the optimizer does not hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from nan_watch.course import Course, courses, lacks_gradients, long_enough, once
from probes.finding import Evidence, Finding, Verdict
from probes.run import Run

FOREIGN = "<optimizer>"  # before the place of a parameter that only the optimizer holds


@dataclass(frozen=True, slots=True)
class NotHeld:
    """Parameters get gradients, and the optimizer does not hold them: they never learn.

    It happens to a layer that was made after the optimizer, or forgotten in its groups. Where
    all of them stand before every held one in the model's order, only the end is trained, which
    is a custom of fine-tuning; and outside of a subject another optimizer may hold them, unless
    their gradients pile up because nobody sets them to zero (`growth` times, first to last
    tenth): in these cases it is a note. It is none where the optimizer holds others instead, which
    are not the model's and never get a gradient: a part was replaced after it was made. So it is
    where that happens while the watch stands, and of tensors that the model keeps past its
    parameters, in a plain list or dict, get gradients and stay as they are.

    Sick: `Adam(model.encoder.parameters())` where the model has a decoder behind.
    Healthy: `Adam(model.parameters())`.
    """

    growth: float = 3.0
    steps: int = 3

    code: ClassVar[str] = "GRD009"
    rule: ClassVar[str] = "not-in-the-optimizer"
    family: ClassVar[Literal["health"]] = "health"

    def lacks(self, run: Run) -> str | None:
        """Gradient norms, and what the optimizer holds."""
        if any(_past(course) for course in courses(run)):
            return None
        found = list(long_enough(run, self.steps))
        if found and all(course.unheld is None for course in found):
            return "the run does not say which parameters the optimizer holds"
        return lacks_gradients(run, self.steps)

    def judge(self, run: Run) -> Iterator[Finding]:
        """At most one finding a course, at the first such parameter."""
        alone = "tier" in run.facts["settings"]  # a plain loop's own watch
        found = (self._of(course, alone) for course in long_enough(run, self.steps))
        past = (course.said_of(self._lost(course)) for course in courses(run) if _past(course))
        yield from once(finding for finding in (*past, *found) if finding is not None)

    def _of(self, course: Course, alone: bool) -> Finding | None:
        got = course.reached
        unheld = course.unheld or frozenset()
        lost = [i for i, s in enumerate(course.grads.sites) if got[i] and s in unheld]
        held = [i for i, s in enumerate(course.grads.sites) if got[i] and s not in unheld]
        if not lost:
            return None
        sites = course.grads.sites
        stale = sum(s.startswith(f"{FOREIGN}[") and not got[i] for i, s in enumerate(sites))
        front = bool(held) and max(lost) < min(held)
        meant = not stale and (front or (alone and not self._piles(course, lost)))
        return course.said_of(self._finding(course, lost, meant, stale))

    def _lost(self, course: Course) -> Finding:
        """Of what was replaced, or failing that of what is not registered."""
        sites = _past(course)
        some = f"`{sites[0]}`" + (f" and {len(sites) - 1} more" if len(sites) > 1 else "")
        s, they = ("", "they never learn") if len(sites) > 1 else ("s", "it never learns")
        replaced = bool(course.replaced)
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"{some} get{s} gradients, but the optimizer holds what stood there before: "
            f"{they}."
            if replaced
            else f"{some} get{s} gradients, but {'is' if s else 'are'} not among the model's "
            f"parameters, and no optimizer trains {'it' if s else 'them'}: {they}.",
            fix="Make the optimizer after the last part of the model was replaced, or converted, "
            "and the watch after it."
            if replaced
            else "Keep modules in an `nn.ModuleList` or `nn.ModuleDict`, and tensors that are to "
            "learn as `nn.Parameter`; make the optimizer after that.",
            site=sites[0],
            phase="update",
            evidence=(
                Evidence("tensors that get gradients and that no optimizer holds", len(sites), 0),
            ),
        )

    def _piles(self, course: Course, lost: list[int]) -> bool:
        """Whether the gradients of these columns grow for want of being set to zero."""
        norms = np.sqrt(np.nansum(course.grads.values[:, lost] ** 2, axis=1))
        tenth = max(1, len(norms) // 10)
        return bool(not np.median(norms[-tenth:]) <= self.growth * np.median(norms[:tenth]))

    def _finding(self, course: Course, lost: list[int], meant: bool, stale: int) -> Finding:
        site = course.grads.sites[lost[0]]
        more = f", and {len(lost) - 1} more parameters" if len(lost) > 1 else ""
        them = "them: they never learn" if more else "it: it never learns"
        others = f" It holds {stale} that the model does not have, in their place." if stale else ""
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.NOTE if meant else Verdict.WARN,
            message=f"`{site}`{more} get{'' if more else 's'} gradients, but the optimizer does "
            f"not hold {them}.{others}",
            fix="Make the optimizer after the last part of the model was replaced."
            if stale
            else "Freeze it by `requires_grad_(False)` if that is meant, which saves its backward "
            "pass; else give it to the optimizer.",
            site=site,
            phase="update",
            evidence=(
                Evidence(
                    "parameters that the optimizer does not hold",
                    len(lost),
                    0,
                    f"of {len(course.grads.sites)}",
                ),
            ),
        )


def _past(course: Course) -> tuple[str, ...]:
    """What gets gradients and is not held, and is no parameter that was there at the start."""
    return course.replaced or course.unregistered
