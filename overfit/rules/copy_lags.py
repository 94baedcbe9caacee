"""FIT022: what is evaluated is a copy of the trained weights that has not caught up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from overfit.curves import Curves
from overfit.lagging import Lagging
from overfit.rules.lacking import lacks_look
from overfit.rules.memorised import Memorised
from probes.finding import Evidence, Finding, Verdict


@dataclass(frozen=True, slots=True)
class CopyLags:
    """An accuracy reads a copy of the model that lags behind the weights which are trained.

    A moving average with a decay of 0.9999 is nearly the initialisation for thousands of steps.
    Told where a module that no optimizer holds has the shapes of one that is trained, and where at
    least `gains` of what is wrong becomes right as it is given the other's weights, so that
    `right` of it is right then.

    Sick: `shadow.mul_(0.9999).add_(p, alpha=1e-4)` from the first step on, and `shadow` evaluated.
    Healthy: a decay of `min(0.9999, (1 + n) / (10 + n))` in step n.
    """

    gains: float = 0.5
    right: float = 0.9

    family: ClassVar[Literal["verdict"]] = "verdict"
    code: ClassVar[str] = "FIT022"
    rule: ClassVar[str] = "copy-lags"
    unless: ClassVar[Memorised] = Memorised()

    def lacks(self, curves: Curves) -> str | None:
        """A look at the trained model."""
        return lacks_look(curves)

    def found(self, curves: Curves) -> Lagging | None:
        """The copy, where it is what keeps an accuracy down."""
        if curves.look is None or self.unless.holds(curves):
            return None
        copy = curves.look.trials.lagging
        if copy is None or copy.after < self.right * copy.count:
            return None
        wrong = copy.count - copy.before
        return copy if copy.after - copy.before >= self.gains * wrong else None

    def judge(self, curves: Curves) -> Iterator[Finding]:
        """One finding for such a copy."""
        copy = self.found(curves)
        if copy is None:
            return
        way = "" if copy.way is None else f", and it went {copy.way:.2g} of the way that that did"
        line = f" (written at {copy.source})" if copy.source else ""
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=(
                f"`{copy.head}` of {curves.suite} reads `{copy.site}`, a copy of `{copy.of}` that "
                f"lags behind it: no optimizer holds `{copy.site}`{line}{way}; "
                f"{copy.before:.10g} of {copy.count:.10g} are right, and with the weights of "
                f"`{copy.of}` it is {copy.after:.10g}, at a loss "
                f"of {curves.end:.4g}: training is in order."
            ),
            fix=f"Let `{copy.site}` follow faster (a smaller decay, or one that grows with the "
            f"steps, such as `min(decay, (1 + n) / (10 + n))`), or evaluate `{copy.of}`.",
            site=copy.site,
            phase="update",
            step=curves.steps[-1],
            source=copy.source,
            evidence=(
                Evidence("right with its own weights", copy.before, copy.count),
                Evidence(f"right with those of `{copy.of}`", copy.after, copy.count),
                Evidence("way of the copy, of the trained weights' way", copy.way, 1),
                Evidence("loss at the end", curves.end, curves.start, anchor=curves.name),
            ),
        )
