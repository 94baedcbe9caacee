"""FIT018: the learning rate was gone before anything could be memorised."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from overfit.curves import Curves
from overfit.interventions import NO_SCHEDULE
from overfit.rules.diverged import Diverged
from overfit.rules.lacking import lacks_course
from overfit.rules.memorised import Memorised
from probes.finding import Evidence, Finding, Verdict


@dataclass(frozen=True, slots=True)
class RateGone:
    """The samples are not memorised, and for most steps there was next to no learning rate.

    Told where in `most` of the steps or more, and in the last, no learning rate was above 1 % of
    the largest, or of what the optimizer was given where a schedule kept it under that: the
    schedule is at its end too early, or its warm-up never ends.

    Sick: `ExponentialLR(optimizer, 0.5)`, stepped every step.
    Healthy: `CosineAnnealingLR(optimizer, 400)` for 400 steps.
    """

    most: float = 0.5

    family: ClassVar[Literal["verdict"]] = "verdict"
    code: ClassVar[str] = "FIT018"
    rule: ClassVar[str] = "rate-gone"
    cures: ClassVar[tuple[str, ...]] = (NO_SCHEDULE,)
    unless: ClassVar[tuple[Memorised, Diverged]] = (Memorised(), Diverged())

    def lacks(self, curves: Curves) -> str | None:
        """A course, and the rates of its steps."""
        if (why := lacks_course(curves)) is not None:
            return why
        return None if curves.drive else "the learning rates are not known"

    def holds(self, curves: Curves) -> bool:
        """Whether the rate is gone."""
        drive = curves.drive
        if drive is None or drive.gone is None or any(other.holds(curves) for other in self.unless):
            return False
        return drive.calls - drive.gone >= self.most * drive.calls

    def judge(self, curves: Curves) -> Iterator[Finding]:
        """One finding where the rate is gone."""
        drive = curves.drive
        if drive is None or not self.holds(curves):
            return
        told = f"right are {curves.told}" if curves.heads else f"the loss is {curves.end:.4g}"
        since = f"from step {drive.gone} of {drive.calls} on" if drive.gone else "in every step"
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=(
                f"the learning rate is gone on {curves.suite}: {since} it is under 1 % of "
                f"{drive.rate:.3g}, and {drive.last:.3g} at the end, so nothing more is learned; "
                f"{told}."
            ),
            fix="Give the schedule its lengths in optimizer steps, or step it once an epoch.",
            site="<optimizer>",
            phase="update",
            step=drive.gone,
            evidence=(
                Evidence("steps with next to no learning rate", drive.calls - (drive.gone or 0)),
                Evidence("full learning rate", drive.rate),
                Evidence("learning rate at the end", drive.last),
                Evidence("loss at the end", curves.end, anchor=curves.name),
            ),
        )
