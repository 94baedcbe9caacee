"""WIR024: gradients that are cleared before an optimizer has had them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.stepping.one_step import passes_of


@dataclass(frozen=True, slots=True)
class ThrownAway:
    """Backward passes run in vain: all that they leave is cleared before the optimizer's step.

    The gradients of the model's parameters are followed from pass to pass until an optimizer was
    stepped. A pass of which every gradient is cleared first, and none was read by anybody, is a
    warning, where another pass reaches the optimizer. It is silence where the user's code takes a
    gradient to compute something, as SAM, gradient surgery and a sum of its own do; where the pass
    serves another leaf as well, as an attacked input; and where other parameters of the same pass
    are stepped, as the generator's are while the critic's are thrown away. Clipping is no use.

    Sick: `for part in parts: optimizer.zero_grad(); loss(part).backward()`, then a step.
    Healthy: the same with `zero_grad` before the loop.
    """

    code: ClassVar[str] = "WIR024"
    rule: ClassVar[str] = "gradients-thrown-away"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A step of the subject's own."""
        if experiment.subject.train_step is None:
            return "the subject has no `train_step`: the step is whynan's own, one backward pass"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding."""
        if not experiment.stepped.lost:
            return
        passes = passes_of(experiment.subject, experiment.step_batch)
        lost, every = passes.lost, len(passes.every)
        if not lost:
            return
        first = lost[0]
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"{len(lost)} of {every} backward passes are for nothing: their gradients are "
            "cleared before the optimizer is stepped, and nobody has read them.",
            fix="Call `zero_grad` once before the first of the passes that are to add up, or step "
            "the optimizer after each.",
            site="<optimizer>",
            phase="backward",
            source=first.cleared,
            evidence=(
                Evidence("backward passes whose gradients nobody has had", len(lost), 0),
                Evidence("backward passes before the optimizer's step and in its call", every),
            ),
        )
