"""GRD004: trained parameters that no gradient reaches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from nan_watch.course import Course, lacks_gradients, long_enough, module_of, once
from probes.finding import Evidence, Finding, Verdict
from probes.run import Run


@dataclass(frozen=True, slots=True)
class NoGradient:
    """Parameters that should train got no gradient in any step, not even zero.

    The backward pass never came there: the path is cut (`detach`, `no_grad`, `.data`, argmax, a
    new tensor made of the old one's numbers), or the module is not used. A cut shows as a whole
    beginning of the forward pass without gradients, all before the first module that has one,
    and in the optimizer's hands: that is a warning. Anything else, such as a pooler whose output
    nobody reads, is a note. Frozen parameters have none by design and are not counted.

    Sick: `head(encoder(x).detach())` with `Adam(model.parameters())`.
    Healthy: the same without `detach`; or the encoder frozen by `requires_grad_(False)`.
    """

    steps: int = 3

    code: ClassVar[str] = "GRD004"
    rule: ClassVar[str] = "no-gradient"
    family: ClassVar[Literal["health"]] = "health"

    def lacks(self, run: Run) -> str | None:
        """Gradient norms, and which parameters are frozen."""
        found = list(long_enough(run, self.steps))
        if found and all(course.frozen is None for course in found):
            return "the run does not say which parameters are frozen"
        return lacks_gradients(run, self.steps)

    def judge(self, run: Run) -> Iterator[Finding]:
        """At most one finding a course."""
        found = (self._of(course) for course in long_enough(run, self.steps))
        yield from once(finding for finding in found if finding is not None)

    def _of(self, course: Course) -> Finding | None:
        if course.frozen is None or course.unheld is None:
            return None
        sites = list(zip(course.grads.sites, course.reached, strict=True))
        silent = [site for site, got in sites if not got and site not in course.frozen]
        reached = {module_of(site) for site, got in sites if got}
        if not silent or not reached:
            return None
        cut = _cut(course, [s for s in silent if s not in course.unheld], reached)
        return course.said_of(self._finding(course, silent, cut))

    def _finding(self, course: Course, silent: list[str], cut: tuple[str, str] | None) -> Finding:
        site = cut[0] if cut else module_of(silent[0])
        told = (
            f"no gradient reaches `{site}` nor anything before it: the way back is cut between "
            f"`{site}` and `{cut[1]}`"
            if cut
            else f"no gradient ever reaches `{silent[0]}`"
        )
        more = f" ({len(silent)} parameters have none)" if len(silent) > 1 else ""
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN if cut else Verdict.NOTE,
            message=f"{told}{more}.",
            fix="Look between the two for `detach`, `no_grad`, `.data`, `argmax` or "
            "`torch.tensor(...)`; freeze what is not to train by `requires_grad_(False)`."
            if cut
            else "Nothing, if its output is not used; else look for what cuts it off the loss.",
            site=site,
            phase="backward",
            evidence=(
                Evidence(
                    f"parameters without a gradient in {len(course.grads.steps)} steps",
                    len(silent),
                    0,
                    f"of {len(course.grads.sites)}",
                ),
            ),
        )


def _cut(course: Course, silent: list[str], reached: set[str]) -> tuple[str, str] | None:
    """The modules on both sides of the cut; None where those without gradients are no beginning."""
    order: dict[str, int] = {}
    for tick, site in enumerate(course.outputs.sites):
        order.setdefault(site.partition("[")[0], tick)
    before = {order[m]: m for m in map(module_of, silent) if m in order}
    after = {order[m]: m for m in reached if m in order}
    if not before or not after or max(before) > min(after):
        return None
    return before[max(before)], after[min(after)]
