"""FIT021: an accuracy compares what is predicted with labels on another scale."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from overfit.compared import OtherScale
from overfit.curves import Curves
from overfit.rules.lacking import lacks_look
from overfit.rules.memorised import Memorised
from probes.finding import Evidence, Finding, Verdict


@dataclass(frozen=True, slots=True)
class MetricOnOtherScale:
    """What an accuracy compares is the same, but for a number that is added, or a scale.

    Then it is the count that is wrong, and not the model. Told of an accuracy that has at most
    `right` of it right, where whole numbers differ by the same number at nine places of ten, so
    that they are counted from 0 here and from 1 there; and of other numbers where a straight line
    leads from the labels to what is predicted, or a curve that keeps their order, nothing but `low`
    of the loss is left, and the two are not the same: one is standardised, or in other units, or
    its log is taken, and the other's is not.

    Sick: `1 + scores.argmax(-1) == batch["rank"]`, with ranks from 0 to 4.
    Healthy: `scores.argmax(-1) == batch["rank"]`.
    """

    right: float = 0.5
    low: float = 0.05

    family: ClassVar[Literal["verdict"]] = "verdict"
    code: ClassVar[str] = "FIT021"
    rule: ClassVar[str] = "metric-on-other-scale"
    unless: ClassVar[Memorised] = Memorised()

    def lacks(self, curves: Curves) -> str | None:
        """A look at the trained model."""
        return lacks_look(curves)

    def found(self, curves: Curves) -> OtherScale | None:
        """The first accuracy that is wrong so."""
        if curves.look is None or self.unless.holds(curves):
            return None
        for each in curves.look.scales:
            head = curves.heads.get(each.head)
            if head is None or head.last > self.right:
                continue
            if each.whole or curves.gone or curves.left <= self.low:
                return each
        return None

    def judge(self, curves: Curves) -> Iterator[Finding]:
        """One finding for such an accuracy."""
        wrong = self.found(curves)
        if wrong is None:
            return
        line = f" at {wrong.source}" if wrong.source else ""
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=(
                f"`{wrong.head}` counts on another scale than it is given: what it compares{line} "
                f"is {wrong.words}, over {wrong.count} places of {curves.suite}, so that "
                f"{curves.heads[wrong.head]} are right, while the loss went from "
                f"{curves.start:.4g} to {curves.end:.4g}: metric and loss disagree, and the model "
                "is not at fault."
            ),
            fix="Bring both to one scale: count classes from 0 in both, and undo in `predict` what "
            "was done to the labels of the loss.",
            site=wrong.head,
            phase="forward",
            step=curves.steps[-1],
            source=wrong.source,
            evidence=(
                Evidence(f"`{wrong.head}` right", curves.heads[wrong.head].told),
                Evidence("times the label", wrong.times, 1),
                Evidence("added to the label", wrong.plus, 0),
                Evidence("loss at the end", curves.end, curves.start, anchor=curves.name),
            ),
        )
