"""GRD002: gradients vanish on their way to some modules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from nan_watch.course import (
    Course,
    Doubles,
    is_bias,
    lacks_gradients,
    largest,
    level,
    long_enough,
    once,
)
from probes.finding import Evidence, Finding, Verdict
from probes.run import Run


@dataclass(frozen=True, slots=True)
class Vanishing:
    """Modules get next to no gradient beside others, and so their weights stand still.

    The gradient norm of a module's weights is under `share` of the largest module's, and in no
    step that was looked at did an update move them by more than `still` of their norm, while
    another module's moved more than ten times as far. A float32 has 24 bits: a change of 6e-8 of
    a number is lost in rounding, and at 1e-6 it takes a million steps to go anywhere. A small
    gradient alone is no fault, since Adam divides by its size; steps after all is learned (the
    total norm under a thousandth of its start) are left out, and so are biases: before a
    normalisation, or as an attention's key bias, theirs is zero by design. What is exactly zero
    is GRD003.

    Sick: 20 layers of Linear and Sigmoid under SGD.
    Healthy: the same with residual connections, or with ReLU and LayerNorm.
    """

    share: float = 1e-6
    still: float = 1e-6
    steps: int = 10

    code: ClassVar[str] = "GRD002"
    rule: ClassVar[str] = "vanishing-gradients"
    family: ClassVar[Literal["health"]] = "health"

    def lacks(self, run: Run) -> str | None:
        """Gradient norms and updates."""
        if not any(len(course.updates.steps) for course in long_enough(run, self.steps)):
            return lacks_gradients(run, self.steps) or "the run holds no updates"
        return None

    def judge(self, run: Run) -> Iterator[Finding]:
        """At most one finding a course, at the module with the smallest gradient."""
        found = (self._of(course) for course in long_enough(run, self.steps))
        yield from once(finding for finding in found if finding is not None)

    def _of(self, course: Course) -> Finding | None:
        norms, moves = _norms(course), _moves(course)
        if not norms or not moves:
            return None
        top = max(norms, key=norms.__getitem__)
        others = max(moves.values())
        gone = {
            name: norm
            for name, norm in norms.items()
            if 0 < norm < self.share * norms[top]
            and moves.get(name, np.inf) < self.still < others / 10
        }
        return course.said_of(self._finding(gone, norms, moves, top)) if gone else None

    def _finding(
        self, gone: dict[str, float], norms: dict[str, float], moves: dict[str, float], top: str
    ) -> Finding:
        site = min(gone, key=gone.__getitem__)
        more = f" ({len(gone)} of {len(norms)} modules are like it)" if len(gone) > 1 else ""
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"gradients vanish on their way to `{site}`: its norm is {gone[site]:.3g} "
            f"beside {norms[top]:.3g} at `{top}`, and its weights stand still{more}.",
            fix="Shorten the way back: residual connections, normalisation, ReLU for sigmoid or "
            "tanh, or an initialisation that keeps the variance (Kaiming, Xavier).",
            site=site,
            phase="backward",
            evidence=(
                Evidence(f"gradient norm of `{site}`", gone[site], self.share * norms[top]),
                Evidence(f"largest update of `{site}` over its weights", moves[site], self.still),
                Evidence("modules like it", len(gone), 0, f"of {len(norms)}"),
            ),
        )


def _norms(course: Course) -> dict[str, float]:
    """Module name to the level of its weights' gradient norm while there was much to learn."""
    values = course.grads.values[course.learning]
    found = {}
    for module, columns in course.modules.items():
        weights = [column for column in columns if not is_bias(course.grads.sites[column])]
        norm = level(largest(values[:, weights], axis=1)) if weights else np.nan
        if not np.isnan(norm):
            found[module] = norm
    return found


def _moves(course: Course) -> dict[str, float]:
    """Module name to the largest update of its weights that was seen, over their norm."""
    found: dict[str, float] = {}
    seen: Doubles = largest(course.updates.values, axis=0)
    for site, move in zip(course.updates.sites, seen.tolist(), strict=True):
        if not is_bias(site) and not np.isnan(move):
            module = site.rpartition(".")[0] or "model"
            found[module] = max(found.get(module, 0.0), move)
    return found
