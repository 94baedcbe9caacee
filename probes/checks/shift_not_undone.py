"""IDX015: what was rolled is added to what it was made of, and was not rolled back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import LOSS, Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.operators.rolled import Displaced, displaced


@dataclass(frozen=True, slots=True)
class ShiftNotUndone:
    """A branch is rolled on its way in and out, and comes out beside its residual.

    Windows are shifted by a roll before attention and by the reverse after it; where the second
    goes on in place of back, or by another number, each place is given what belongs to another.
    Told is a sum of a tensor and of what came of it through two rolls or more along one axis which
    do not cancel, where no place that is looked at gets anything of its own, by gradients, but of
    several others. Rolls that make a convolution causal, a token shift, and half a turn and half a
    turn are healthy.

    Sick: `x + torch.roll(window_attention(torch.roll(x, -s, 1)), -s, 1)`.
    Healthy: `x + torch.roll(window_attention(torch.roll(x, -s, 1)), s, 1)`.
    """

    code: ClassVar[str] = "IDX015"
    rule: ClassVar[str] = "shift-not-undone"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A loss."""
        if LOSS not in experiment.evaluated.ran.outputs:
            return "the loss could not be had: `Subject.loss` raises"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """One finding a line."""
        said: set[str | None] = set()
        for each in displaced(experiment):
            if each.source not in said:
                said.add(each.source)
                yield self._finding(each)

    def _finding(self, each: Displaced) -> Finding:
        moves = " and ".join(
            f"{by:+d} along axis {axis} of {length}" for axis, length, by in each.moved
        )
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"what is rolled at {each.first} and at {each.source} is added to what it was "
            f"made of, {moves} places beside it: the second roll does not undo the first, and no "
            "place gets anything of its own.",
            fix="Roll back by the same number with the other sign, along the same axes.",
            site=each.site,
            op="aten.roll",
            phase="forward",
            source=each.source,
            evidence=tuple(
                Evidence(f"places along axis {axis} of {length}", by, 0)
                for axis, length, by in each.moved
            ),
        )
