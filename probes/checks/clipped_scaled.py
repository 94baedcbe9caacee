"""WIR061: gradients are clipped while the scale of a GradScaler is still in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.stepping.scaled import Met, scaled_cuts


@dataclass(frozen=True, slots=True)
class ClippedScaled:
    """Gradients are clipped before a GradScaler has divided them by the scale of the loss.

    The limit is then held against gradients that are too large by the scale, so that nearly every
    step is cut to it, and what is left is divided by the scale. A step of the subject's own is
    taken at the scale that it has and at a scale of 1, from the same state: told is what of the
    same gradient is cut in the first, and less or not at all in the second, however that is
    written. It is a failure where the parameters move by less than `share` of what they do at a
    scale of 1, else a warning: an optimizer such as Adam makes up for the size, but no step knows
    any more how large its gradient was. A limit that is multiplied by the scale, one that cuts
    nothing, and a division by a number cut the same at every scale.

    Sick: `scaler.scale(loss).backward(); clip_grad_norm_(parameters, 1.0); scaler.step(optimizer)`.
    Healthy: the same with `scaler.unscale_(optimizer)` before the clipping.
    """

    share: float = 0.1

    code: ClassVar[str] = "WIR061"
    rule: ClassVar[str] = "clipped-while-scaled"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A step of the subject's own, with a GradScaler."""
        if experiment.subject.train_step is None:
            return "the subject has no `train_step`: the step is whynan's own, without a GradScaler"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding: the optimizer of which least is left."""
        if not experiment.stepped.scaled:
            return
        found = scaled_cuts(experiment.subject, experiment.step_batch)
        worst = min(found, key=lambda each: each[0].left, default=None)
        if worst is not None:
            yield self._finding(*worst)

    def _finding(self, cut: Met, plain: Met) -> Finding:
        stands_still = cut.moved < self.share * plain.moved
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL if stands_still else Verdict.WARN,
            message=f"gradients are cut while they are still multiplied by the loss scale of "
            f"{cut.scale:g}: {cut.left:.3g} of them is left, where at a scale of 1 the same code "
            f"leaves {plain.left:.3g}; then the scaler divides by the scale, and the optimizer "
            f"sees a norm of {cut.left * cut.norm:.3g} in place of {plain.left * plain.norm:.3g}"
            + ("." if stands_still else ", of which its own scaling hides the size."),
            fix="Call `scaler.unscale_(optimizer)` after the last backward pass and before the "
            "gradients are clipped.",
            site="<optimizer>",
            phase="update",
            source=cut.source,
            evidence=(
                Evidence("share of the gradient that is left", cut.left, plain.left),
                Evidence("loss scale", cut.scale, 1.0),
                Evidence("norm of the gradient without the scale", cut.norm),
                Evidence("norm that the optimizer sees", cut.left * cut.norm),
                Evidence("how far the parameters move", cut.moved, self.share * plain.moved),
            ),
        )
