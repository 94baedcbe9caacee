"""FIT019: weight decay takes what the gradient gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from overfit.curves import Curves
from overfit.drive import Drive
from overfit.interventions import NO_DECAY
from overfit.rules.diverged import Diverged
from overfit.rules.lacking import lacks_course
from overfit.rules.memorised import Memorised
from overfit.rules.step_overshoots import StepTooLarge
from probes.finding import Evidence, Finding, Verdict


@dataclass(frozen=True, slots=True)
class DecayHolds:
    """The samples are not memorised, and weight decay keeps the weights from going there.

    Told where a step takes `forgets` of the weights or more by decay alone (learning rate x
    decay, where it is taken off the weights themselves, as in SGD and AdamW), so that they forget
    within a hundred steps; or where the decay adds to the gradient `balance` of its norm or more at
    the end, and to the loss `energy` of what is left of it: the two hold each other. The second
    only where the optimizer does to both the same, which a step without gradient shows: not where
    the gradient alone is divided by its size, or its sign taken (AdamW, Lion). Not where the
    gradient is gone since the model is blind, while its weights kept `kept` of their size, so that
    it was no decay that blinded it; nor where the steps flung the weights to where it holds them
    (FIT010).

    Sick: `AdamW(model.parameters(), lr=1e-2, weight_decay=20.0)`.
    Healthy: the same with 0.01.
    """

    forgets: float = 0.01
    balance: float = 0.5
    energy: float = 0.05
    blind: float = 1e-4
    kept: float = 0.7

    family: ClassVar[Literal["verdict"]] = "verdict"
    code: ClassVar[str] = "FIT019"
    rule: ClassVar[str] = "decay-holds-weights"
    cures: ClassVar[tuple[str, ...]] = (NO_DECAY,)
    unless: ClassVar[tuple[Memorised, Diverged]] = (Memorised(), Diverged())
    step: ClassVar[StepTooLarge] = StepTooLarge()

    def lacks(self, curves: Curves) -> str | None:
        """A course, and what the optimizer did."""
        if (why := lacks_course(curves)) is not None:
            return why
        return None if curves.drive else "it is not known what the optimizer did"

    def judge(self, curves: Curves) -> Iterator[Finding]:
        """One finding where decay holds the weights."""
        drive = curves.drive
        if drive is None or any(other.holds(curves) for other in self.unless):
            return
        why = self._why(drive, curves)
        if why is None:
            return
        told = f"right are {curves.told}" if curves.heads else f"the loss is {curves.end:.4g}"
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"a weight decay of {drive.decay:.3g} keeps the model from memorising "
            f"{curves.suite}: {why}; {told}.",
            fix="Lower `weight_decay` by a hundred or more: 0.01 is usual in AdamW, 1e-4 in SGD.",
            site="<optimizer>",
            phase="update",
            step=curves.steps[-1],
            evidence=(
                Evidence("share of the weights that decay takes in a step", drive.forgets),
                Evidence("norm of what decay adds to the gradient", drive.decayed, drive.gradient),
                Evidence("what decay adds to the loss", drive.energy, curves.end),
            ),
        )

    def _why(self, drive: Drive, curves: Curves) -> str | None:
        direct = curves.look is not None and bool(curves.look.trials.direct)
        forgets = drive.forgets or (drive.decay * (drive.rate or 0.0) if direct else 0.0)
        if forgets >= self.forgets:
            return (
                f"with the learning rate it takes {forgets:.2g} of each weight in a step, so "
                f"that all are forgotten within {max(1, round(1 / forgets))} steps"
            )
        if direct and not drive.proportional:  # it is not divided as the gradient is
            return None
        if drive.decayed is None or drive.gradient is None or self._is_gone(curves):
            return None
        pulls = drive.decayed >= self.balance * drive.gradient > 0
        if pulls and drive.energy >= self.energy * abs(curves.end):
            return (
                f"at the end it adds {drive.decayed:.2g} to a gradient of norm "
                f"{drive.gradient:.2g}, so that the two hold each other"
            )
        return None

    def _is_gone(self, curves: Curves) -> bool:
        """Whether what the gradient lacks, or the weights have too much, was not decay's doing."""
        look = curves.look
        if look is None:
            return False
        blind = look.reading is not None and look.reading <= self.blind
        return self.step.flung(curves) or (blind and (look.size is None or look.size >= self.kept))
