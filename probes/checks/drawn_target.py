"""LBL020: the target is a draw of its own, and the model is given another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, ExperimentError, Finding, Verdict
from probes.scoring.drawn_target import DrawnTarget, drawn_targets


@dataclass(frozen=True, slots=True)
class TargetDrawnApart:
    """The loss asks for noise that the model was never given: its input holds another draw.

    To learn what was added to its input, a model is scored against that very noise. Where it is
    drawn once for the target and once more for the input, the target has nothing to do with
    what the model reads, and the loss stays at the variance of the noise. A step runs from one
    random state with the rows of one draw given each to the next: the target is that draw alone,
    times a number or one for each sample, and neither what modules read until it is scored, nor
    the prediction moves by a bit; while another draw of its shape does move what is read. What
    holds data as well, as a second noisy picture of the same does, is a fair target, and so is
    what is sorted or read by a network before it is asked for.

    Sick: `noise = torch.randn_like(x)`; `x_t = q_sample(x, t)`, which draws its own;
    `mse_loss(model(x_t, t), noise)`.
    Healthy: `x_t = q_sample(x, t, noise)`, and the rest as it is.
    """

    code: ClassVar[str] = "LBL020"
    rule: ClassVar[str] = "target-drawn-apart"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A loss."""
        return experiment.lacks_loss

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding."""
        with suppress(ExperimentError):
            for each in drawn_targets(experiment):
                yield self._finding(each)

    def _finding(self, each: DrawnTarget) -> Finding:
        lines = each.asked, each.given, each.scored
        asked, given, scored = (f" at {line}" if line else "" for line in lines)
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"the loss{scored} asks for what `{each.op}` draws{asked}, which nothing that "
            f"the model reads holds: its input is made with another draw of that shape{given}, "
            "and the target has nothing to do with it.",
            fix=f"Draw once: make the input with what is drawn{asked}, as by handing it over to "
            f"what draws{given}.",
            site="<loss>",
            phase="forward",
            source=each.scored,
            evidence=(
                Evidence("numbers of the target that are drawn apart from the input", each.count),
                Evidence("their deviation, of which no prediction tells", each.spread),
            ),
        )
