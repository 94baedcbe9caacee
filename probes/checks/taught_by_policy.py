"""WIR063: a policy's term trains the value in its own advantage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.slopes.policy_term import Taught, taught


@dataclass(frozen=True, slots=True)
class TaughtByPolicy:
    """The advantage that weighs a log-probability is not cut off from the value in it.

    A value is asked for a target by a regression, and what is left of that target beside it, or a
    function of that, multiplies log-probabilities that other parameters give. With a gradient
    through both, the loss of the policy is lowered by other values too, whatever the target is:
    where actions are improbable it pays to raise all values, so that less is left. Measured is
    what the product gives the parameters that serve the value alone, beside what the regression
    gives them. Silence where no gradient passes, where the optimizer holds none of them, or where
    `train_step` minimises other losses than `loss`, such as each one's by itself.

    Sick: `-(log_prob * (returns - value)).mean() + F.mse_loss(value, returns)`.
    Healthy: `-(log_prob * (returns - value.detach())).mean() + F.mse_loss(value, returns)`.
    """

    code: ClassVar[str] = "WIR063"
    rule: ClassVar[str] = "value-taught-by-policy"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A loss that is minimised as it is."""
        if experiment.lacks_loss is not None:
            return experiment.lacks_loss
        return None if experiment.minimises_loss else "`train_step` minimises other losses"

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding."""
        found = taught(experiment)
        if found is not None:
            yield self._finding(found)

    def _finding(self, found: Taught) -> Finding:
        site = found.names[0].rpartition(".")[0] or "model"
        more = f" and {len(found.names) - 1} more" if len(found.names) > 1 else ""
        at = "" if found.regression is None else f" ({found.regression})"
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message="the advantage that weighs the log-probability is not detached: the policy's "
            f"term trains the value's own `{found.names[0]}`{more}, with "
            f"{found.policy / found.critic:.2g} times the gradient of its regression{at}, and "
            f"pushes the values {'up' if found.up else 'down'}, whatever their targets are.",
            fix="Detach the advantage before it multiplies the log-probability: "
            "`(target - value).detach()`.",
            site=site,
            phase="backward",
            source=found.product,
            evidence=(
                Evidence("gradient of the policy's term on the value's own", found.policy, 0.0),
                Evidence("gradient of the regression on the same", found.critic),
            ),
        )
