"""FIT001: the model has memorised the samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from overfit.curves import Curves
from overfit.rules.lacking import lacks_course
from probes.finding import Evidence, Finding, Verdict


@dataclass(frozen=True, slots=True)
class Memorised:
    """The model can learn: it has the samples of the suite by heart.

    Where a head counts, every head has all of it right in eval mode at the last evaluation.
    Where none does, the median loss of the last pass is at most `loss_left` of where it began,
    which says less: give `Subject.metrics`.

    Sick: not a sickness, but a note; a model that cannot do this will not learn from more data.

        whynan overfit train.py:subject --sizes 5     # note FIT001 memorised

    Healthy: the same subject with its input multiplied by zero; FIT002 or FIT004 speaks instead.
    """

    loss_left: float = 0.05

    family: ClassVar[Literal["verdict"]] = "verdict"
    code: ClassVar[str] = "FIT001"
    rule: ClassVar[str] = "memorised"

    def lacks(self, curves: Curves) -> str | None:
        """A course of the loss, and something that says what remembered would be."""
        if (why := lacks_course(curves)) is not None:
            return why
        if not curves.heads and curves.start <= 0:
            return (
                f"the loss began at {curves.start:.3g}, so a share of it says nothing, and "
                "nothing is counted: give `Subject.metrics`"
            )
        return None

    def holds(self, curves: Curves) -> bool:
        """Whether the samples are memorised."""
        if curves.ended in ("refused", "died"):
            return False
        if curves.heads:
            return curves.perfect
        return curves.start > 0 and curves.end <= self.loss_left * curves.start

    def judge(self, curves: Curves) -> Iterator[Finding]:
        """One note where the samples are memorised."""
        if not self.holds(curves):
            return
        last = curves.steps[-1] + 1
        how = curves.told or f"the loss fell to {curves.end / curves.start:.1%} of its start"
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.NOTE,
            message=f"{curves.suite} memorised within {last} steps (seed {curves.seed}): {how}.",
            fix="Nothing to mend here; go on with more data.",
            step=curves.steps[-1],
            evidence=(
                *(Evidence(f"`{name}` right", str(head)) for name, head in curves.heads.items()),
                Evidence("loss at the start", curves.start),
                Evidence("loss at the end", curves.end, anchor=curves.name),
            ),
        )
