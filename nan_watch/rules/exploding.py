"""GRD001: gradients explode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from nan_watch.course import Course, lacks_gradients, level, long_enough, once
from probes.finding import Evidence, Finding, Verdict
from probes.run import Run


@dataclass(frozen=True, slots=True)
class Exploding:
    """Gradients grow far past where they began, and the loss does not profit from it.

    The total norm, before clipping where that is known, was over `factor` times its level of the
    first `first` steps (of the first third in a shorter run) and stayed there: in the median of
    the last `first` steps or in the last two; or it was so in at least `steps` steps on end and
    the loss ended at over twice its start. Told while the loss was not below its own level of
    then; not finite counts as over, where some step that is finite is. A gradient is a product
    of one Jacobian a layer or time step, so past a spectral radius of 1 it grows by a power;
    noise between batches stays within a factor of ten. Outliers that come and go, as of one rare
    batch, are no explosion, and neither is what comes with a loss that falls.

    Or within a step: the largest gradient of an output is over `depth` times the one nearest the
    loss, in the median step, and the loss did not fall by `fall` of its start.

    Sick: an RNN over 100 time steps, its recurrent matrix of spectral radius 1.5, SGD with
        lr=0.1 and no clipping.
    Healthy: the same with an orthogonal recurrent matrix and `clip_grad_norm_(..., 1.0)`.
    """

    factor: float = 100.0
    steps: int = 3
    first: int = 10
    depth: float = 1e4
    fall: float = 0.1

    code: ClassVar[str] = "GRD001"
    rule: ClassVar[str] = "exploding-gradients"
    family: ClassVar[Literal["health"]] = "health"

    def lacks(self, run: Run) -> str | None:
        """Gradient norms of as many steps as are compared."""
        return lacks_gradients(run, self.steps)

    def judge(self, run: Run) -> Iterator[Finding]:
        """At most one finding a course."""
        found = (self._of(c) or self._deep(c) for c in long_enough(run, self.steps))
        yield from once(finding for finding in found if finding is not None)

    def _of(self, course: Course) -> Finding | None:
        count = min(self.first, len(course.total) // 3)
        start, loss = level(course.total[:count]), level(course.losses[:count])
        beyond = ~(course.total <= self.factor * start) & (start > 0)
        finite = np.isfinite(course.total)
        beyond &= ~(course.losses < loss)  # an unknown loss excuses nothing
        if not self._stays(course, beyond) or not (beyond & finite).any():
            return None
        place = int(beyond.argmax())
        step, worst = int(course.grads.steps[place]), float(course.total[beyond & finite].max())
        norms = course.grads.values[place]
        site = course.grads.sites[int(np.nanargmax(norms))]
        return course.said_of(
            Finding(
                code=self.code,
                rule=self.rule,
                verdict=Verdict.WARN,
                message=f"gradients explode: their total norm went from {start:.3g} to "
                f"{worst:.3g}, `{site}` having the largest at step {step}.",
                fix="Clip the gradient norm to about what it was in the first steps, or lower the "
                "learning rate; in a recurrent net look at the recurrent matrix's scale.",
                site=site,
                phase="backward",
                step=step,
                evidence=(
                    Evidence("total gradient norm", worst, self.factor * start),
                    Evidence("total gradient norm of the first steps", start),
                    Evidence("steps beyond the limit", int(beyond.sum()), self.steps),
                    Evidence(
                        "total gradient norm",
                        float(course.total[place]),
                        self.factor * start,
                        step=step,
                    ),
                ),
            )
        )

    def _stays(self, course: Course, beyond: npt.NDArray[np.bool_]) -> bool:
        """Whether it is beyond to the end, or was so for long and left the loss ruined."""
        if beyond[-2:].all() and len(beyond) > 1:  # two may do to overflow
            return True
        newest = beyond[-min(self.first, len(beyond) // 3) :]
        ruined = course.fall is not None and course.fall < -1
        return bool(newest.mean() > 0.5) or (_longest(beyond) >= self.steps and ruined)

    def _deep(self, course: Course) -> Finding | None:
        levels = np.array([level(column) for column in course.output_grads.values.T])
        inner = [site not in ("model", "model.loss") for site in course.output_grads.sites]
        known = np.flatnonzero(
            (levels > 0) & np.array(inner, bool)
        )  # the gradient of a loss itself is 1
        if len(known) < 2 or course.fall is None or not course.fall < self.fall:
            return None
        near, far = int(known[0]), int(known[np.argmax(levels[known])])
        growth = float(levels[far] / levels[near])
        if growth <= self.depth:
            return None
        site, start = course.output_grads.sites[far], course.output_grads.sites[near]
        return course.said_of(
            Finding(
                code=self.code,
                rule=self.rule,
                verdict=Verdict.WARN,
                message=f"gradients explode on their way back: from {levels[near]:.3g} at "
                f"`{start}` to {levels[far]:.3g} at `{site}` in one step, and the loss does not "
                "fall.",
                fix="Scale the initial weights so that variance is kept (Kaiming, Xavier, "
                "orthogonal), or normalise between the layers.",
                site=site,
                phase="backward",
                evidence=(
                    Evidence(f"largest gradient at `{site}` over `{start}`", growth, self.depth),
                ),
            )
        )


def _longest(beyond: npt.NDArray[np.bool_]) -> int:
    """The length of the longest stretch of steps beyond."""
    return max((len(list(group)) for is_beyond, group in groupby(beyond) if is_beyond), default=0)
