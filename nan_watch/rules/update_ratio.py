"""GRD006: updates are far too large or too small for their weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from nan_watch.course import Course, is_bias, lacks_gradients, largest, level, long_enough, once
from probes.finding import Evidence, Finding, Verdict
from probes.run import Run


@dataclass(frozen=True, slots=True)
class UpdateRatio:
    """A step replaces the weights, or does not move them at all.

    The norm of an update over the norm of its weights is about 1e-3 in a net that trains. Where
    its median is over `large`, or the first step's was over `replaced`, what the weights knew or
    began with is gone: told where the loss did not fall by `fall` of its start. Weights that
    start at zero have no ratio in the first step, and the first look at each is left out of the
    median. Grown from zero by n steps of one size, their ratio is 1 / n, whatever the rate: where
    the newest is not over `fresh` times that, it says nothing. Where no weight was ever moved by
    `small`, float32 rounds most of the update away (6e-8), and nothing can be learned: told where
    some weight has a gradient to follow (its norm over `alive`) that was not clipped away by a
    factor under `harsh`, which is GRD005. Biases are left out.

    Sick: `SGD(model.parameters(), lr=1e-9)`, or `Adam(model.parameters(), lr=1.0)`.
    Healthy: `Adam(model.parameters(), lr=1e-3)`, with or without a warm-up from zero.
    """

    large: float = 0.1
    replaced: float = 1.0
    small: float = 1e-6
    fall: float = 0.1
    alive: float = 1e-3
    harsh: float = 1e-3
    looks: int = 3
    fresh: float = 3.0
    steps: int = 10

    code: ClassVar[str] = "GRD006"
    rule: ClassVar[str] = "update-ratio"
    family: ClassVar[Literal["health"]] = "health"

    def lacks(self, run: Run) -> str | None:
        """Gradient norms and updates."""
        if not any(len(course.updates.steps) for course in long_enough(run, self.steps)):
            return lacks_gradients(run, self.steps) or "the run holds no updates"
        return None

    def judge(self, run: Run) -> Iterator[Finding]:
        """At most one finding a course."""
        found = (self._of(course) for course in long_enough(run, self.steps))
        yield from once(finding for finding in found if finding is not None)

    def _of(self, course: Course) -> Finding | None:
        columns = [i for i, site in enumerate(course.updates.sites) if not is_bias(site)]
        if not columns:
            return None
        most = course.moved
        if most < self.small and self._has_way(course):
            return course.said_of(self._still(course, most))
        if course.fall is not None and course.fall < self.fall:
            return self._replaced(course, columns)
        return None

    def _has_way(self, course: Course) -> bool:
        """Whether weights have gradients to follow that clipping (GRD005) does not take away."""
        weights = [i for i, site in enumerate(course.grads.sites) if not is_bias(site)]
        clipped = level(course.factor) < self.harsh
        return level(largest(course.grads.values[:, weights], axis=1)) > self.alive and not clipped

    def _replaced(self, course: Course, columns: list[int]) -> Finding | None:
        medians, first = {}, {}
        for column in columns:
            site, ratios = course.updates.sites[column], course.updates.values[:, column]
            finite = np.isfinite(ratios)  # a poisoned one says nothing of size
            if finite.sum() > self.looks:
                told, count = ratios[finite], course.updates.steps[finite] + 1
                if told[-1] * count[-1] > self.fresh:
                    medians[site] = float(np.median(told[1:]))
            if finite[0] and course.updates.steps[0] == 0:
                first[site] = float(ratios[0])
        for ratios_of, limit, when in (
            (first, self.replaced, "in the first step"),
            (medians, self.large, "in the median"),
        ):
            beyond = {site: ratio for site, ratio in ratios_of.items() if ratio > limit}
            if beyond:
                return self._too_large(course, beyond, len(ratios_of), when, limit)
        return None

    def _too_large(
        self, course: Course, beyond: dict[str, float], of: int, when: str, limit: float
    ) -> Finding:
        site = max(beyond, key=beyond.__getitem__)
        more = f", and {len(beyond) - 1} more are like it" if len(beyond) > 1 else ""
        ends = course.fall is not None and not np.isfinite(course.fall)
        loss = "ends not finite" if ends else "does not fall"
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"an update changes `{site}` by {beyond[site]:.3g} of its norm {when}"
            f"{more}, and the loss {loss}.",
            fix="Lower the learning rate until an update is about a thousandth of its weights.",
            site=site,
            phase="update",
            evidence=(
                Evidence(f"update of `{site}` over its weights, {when}", beyond[site], limit),
                Evidence("share of its start that the loss fell by", course.fall, self.fall),
                Evidence("weights like it", len(beyond), 0, f"of {of}"),
            ),
        )
        return course.said_of(finding)

    def _still(self, course: Course, most: float) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"no weight moves: the largest of {len(course.updates.steps)} steps' updates "
            f"was {most:.3g} of its weights, while there are gradients to follow.",
            fix="Raise the learning rate, and look whether a schedule holds it at zero.",
            site="<optimizer>",
            phase="update",
            evidence=(
                Evidence("largest update over its weights", most, self.small),
                Evidence("total gradient norm, median", level(course.total), self.alive),
            ),
        )
