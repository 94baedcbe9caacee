"""FIT003: training ran away."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from overfit.curves import Curves
from overfit.interventions import CLIPPING, SMALLER
from overfit.rules.lacking import lacks_course
from overfit.rules.memorised import Memorised
from probes.finding import Evidence, Finding, Verdict


@dataclass(frozen=True, slots=True)
class Diverged:
    """Training on a handful of samples ran away instead of settling.

    It holds where the watch refused a step because something was not finite, where the loss ends
    above `rise` times its start, or where it once stood above `peak` times its start and never
    came back below half of it. It holds as well where the loss ends negative, `depth` times its
    start below it, and what is counted is no better than at the start: a loss that can fall for
    ever asks for nothing, as one of the wrong sign does. Where it leapt above `peak` times its
    first value in the first steps, it is a step too large that threw it there; so it is where a
    tenth of the rate, from the start, leaves `calmed` of what there is to learn or less.

    Sick: the step is too large.

        optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=100.0)

    Healthy: the same with lr=0.1.
    """

    rise: float = 2.0
    peak: float = 10.0
    depth: float = 100.0
    gain: float = 0.25
    few: int = 5
    calmed: float = 0.5

    family: ClassVar[Literal["verdict"]] = "verdict"
    code: ClassVar[str] = "FIT003"
    rule: ClassVar[str] = "diverged"
    cures: ClassVar[tuple[str, ...]] = (SMALLER, CLIPPING)
    unless: ClassVar[Memorised] = Memorised()

    def lacks(self, curves: Curves) -> str | None:
        """A course of the loss."""
        return lacks_course(curves)

    def holds(self, curves: Curves) -> bool:
        """Whether it diverged."""
        if curves.ended == "refused":
            return True
        return not self.unless.holds(curves) and (self.ran_away(curves) or self.sank(curves))

    def sank(self, curves: Curves) -> bool:
        """Whether the loss fell far below zero, and nothing was learned by it."""
        deep = curves.end < min(0.0, curves.start - self.depth * max(1.0, abs(curves.start)))
        heads = curves.heads.values()
        return deep and bool(heads) and all(h.last - h.first <= self.gain for h in heads)

    def ran_away(self, curves: Curves) -> bool:
        """Whether the loss rose far above its start; a NaN did."""
        start, end, scale = curves.start, curves.end, abs(curves.start)
        highest = max(curves.losses)
        settled = end <= start + (self.rise - 1) * scale
        recovered = not highest > start + (self.peak - 1) * scale or end < start - scale / 2
        return not (settled and recovered)

    def judge(self, curves: Curves) -> Iterator[Finding]:
        """One finding where it diverged."""
        if not self.holds(curves):
            return
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=self._message(curves),
            fix=self._fix(curves),
            site=self._site(curves),
            step=self._step(curves),
            evidence=tuple(self._evidence(curves)),
        )

    def _site(self, curves: Curves) -> str | None:
        if self._grew(curves):
            return "<optimizer>"
        return "<loss>" if curves.ended != "refused" and self.sank(curves) else None

    def _grew(self, curves: Curves) -> bool:
        """Whether the loss rose before it was lost: a NaN out of the blue is not a large step."""
        known = [loss for loss in curves.losses if math.isfinite(loss)]
        limit = curves.start + (self.rise - 1) * abs(curves.start)
        return len(known) > 1 and max(known) > limit

    def _step(self, curves: Curves) -> int | None:
        """The refused step, or the one where the loss was first above the limit."""
        if curves.ended == "refused":
            return curves.refused
        limit = curves.start + (self.rise - 1) * abs(curves.start)
        above = (
            step
            for step, loss in zip(curves.steps, curves.losses, strict=True)
            if not loss <= limit
        )
        return next(above, None)

    def _message(self, curves: Curves) -> str:
        thrown = self._thrown(curves)
        if curves.ended != "refused" and self.sank(curves):
            if thrown is not None:
                return (
                    f"training on {curves.suite} (seed {curves.seed}) diverged: {thrown}; from "
                    f"there it falls without bound, to {curves.end:.4g}, and nothing is learned by "
                    f"it: right are {curves.told}."
                )
            return (
                f"the loss of {curves.suite} (seed {curves.seed}) falls without bound, from "
                f"{curves.start:.4g} to {curves.end:.4g}, and nothing is learned by it: right are "
                f"{curves.told}."
            )
        if curves.ended != "refused":
            thrown = thrown or self._calm(curves)
            why = "" if thrown is None else f"{thrown}; "
            return (
                f"training on {curves.suite} (seed {curves.seed}) diverged: {why}the loss went "
                f"from {curves.start:.4g} to {curves.end:.4g}, at most {max(curves.losses):.4g}."
            )
        how = "diverged" if self._grew(curves) else "stopped"
        return (
            f"training on {curves.suite} (seed {curves.seed}) {how}: step {curves.refused} was "
            f"not finite and was refused; {self._born(curves)}"
        )

    def _born(self, curves: Curves) -> str:
        """Where it was born; no more than that, where a smaller suite has told of the same."""
        place = (curves.said or "").partition(": ")[0]
        for other in curves.smaller:
            if other.ended == "refused" and (other.said or "").partition(": ")[0] == place:
                return f"it was born where that of {other.suite} was."
        return str(curves.said)

    def _thrown(self, curves: Curves) -> str | None:
        """The steps that threw the loss up by orders of magnitude; None where it crept there."""
        if not curves.losses:
            return None
        first, rest = curves.losses[0], curves.losses[1 : 1 + self.few * curves.passes]
        limit = first + (self.peak - 1) * abs(first)
        at = next((i for i, loss in enumerate(rest, 1) if not loss <= limit), None)
        if at is None:
            return None
        return (
            f"the step is too large, for {at} of them threw the loss from {first:.4g} to "
            f"{curves.losses[at]:.4g}"
        )

    def _calm(self, curves: Curves) -> str | None:
        """What a tenth of the rate does from the start, where the loss falls by it."""
        tried = None if curves.look is None else curves.look.trials.again
        if tried is None or not tried.smaller < min(tried.kept, curves.start):
            return None
        if not tried.smaller - curves.least <= self.calmed * (curves.start - curves.least):
            return None
        return (
            f"the step is too large, for {tried.steps} steps from the start at a tenth of the "
            f"learning rate bring the loss down to {tried.smaller:.4g}, and at the whole rate it "
            f"is {tried.kept:.4g} by then"
        )

    def _fix(self, curves: Curves) -> str:
        if self._grew(curves):
            return "Make the step smaller: a learning rate ten times lower, or clip the gradient."
        if curves.ended != "refused" and self.sank(curves):
            return "Look at the sign of the loss, and for a term that has no lower bound."
        return "Mend the place where the first value that is not finite is born, named above."

    def _evidence(self, curves: Curves) -> Iterator[Evidence]:
        if not curves.losses:
            return
        limit = curves.start + (self.rise - 1) * abs(curves.start)
        yield Evidence("loss at the start", curves.start)
        yield Evidence("loss at the end", curves.end, limit, anchor=curves.name)
        yield Evidence("highest loss", max(curves.losses))
