"""FIT017: the optimizer takes no steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from overfit.curves import Curves
from overfit.drive import Drive
from overfit.rules.memorised import Memorised
from probes.finding import Evidence, Finding, Verdict


@dataclass(frozen=True, slots=True)
class IdleOptimizer:
    """The training step was called again and again, and the optimizer wrote nothing.

    Either it was not stepped once in all calls of `train_step`, as where gradients are accumulated
    over more micro-batches than ever come; or a GradScaler skipped `share` of its steps or more,
    since the scaled gradients overflow.

    Sick: `if calls % 1000 == 0: optimizer.step()`.
    Healthy: the same with 2 for 1000.
    """

    share: float = 0.9

    family: ClassVar[Literal["verdict"]] = "verdict"
    code: ClassVar[str] = "FIT017"
    rule: ClassVar[str] = "optimizer-idle"
    unless: ClassVar[Memorised] = Memorised()

    def lacks(self, curves: Curves) -> str | None:
        """What the optimizer did."""
        if curves.drive is None:
            return "it is not known what the optimizer did"
        return None

    def judge(self, curves: Curves) -> Iterator[Finding]:
        """One finding where it wrote nothing."""
        drive = curves.drive
        if drive is None or not drive.calls or self.unless.holds(curves):
            return
        if drive.taken and drive.skipped < self.share * drive.taken:
            return
        message, fix = _skipped(drive, curves.suite) if drive.taken else _never(drive, curves.suite)
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=message,
            fix=fix,
            site="<optimizer>",
            phase="update",
            step=drive.taken,
            evidence=(
                Evidence("calls of the step", drive.calls),
                Evidence("steps of the optimizer", drive.taken),
                Evidence("steps that a GradScaler skipped", drive.skipped),
            ),
        )


def _skipped(drive: Drive, suite: str) -> tuple[str, str]:
    """What is said of a GradScaler that takes the steps away, and what to do."""
    first = f", `{drive.overflowed}` first" if drive.overflowed else ""
    return (
        f"a GradScaler skipped {drive.skipped} of {drive.taken} steps on {suite}: at a scale of "
        f"{drive.scale:.3g} the gradients overflow{first}, so nothing is learned.",
        "Give the scaler an `init_scale` of 65536 or less and its own `backoff_factor`, call "
        "`scaler.update()` after each step, and look whether the gradients are finite without it.",
    )


def _never(drive: Drive, suite: str) -> tuple[str, str]:
    """What is said of an optimizer that nobody steps, and what to do."""
    return (
        f"the optimizer was never stepped in {drive.calls} calls of `train_step` on {suite}, so "
        "nothing is learned.",
        "Call `optimizer.step()`; where gradients are accumulated, over fewer micro-batches than "
        "there are.",
    )
