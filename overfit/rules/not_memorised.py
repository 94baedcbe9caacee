"""FIT002: something was learned, but the samples were not memorised."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar, Literal

from overfit.curves import Curves
from overfit.rules.diverged import Diverged
from overfit.rules.flat import Flat
from overfit.rules.memorised import Memorised
from probes.finding import Evidence, Finding, Verdict


@dataclass(frozen=True, slots=True)
class NotMemorised:
    """The model learned something of the samples and then stopped, or ran out of steps.

    It holds where neither memorised, diverged nor flat does. Whether the loss was still falling
    is read from its last two quarters: the last one's mean lies `falling` or more of the one
    before's below it.

    Sick: the input is multiplied by zero, so that only the labels' frequencies can be learned.

        loss=lambda model, batch: F.cross_entropy(model(batch["x"] * 0), batch["y"])

    Healthy: the same without `* 0`.
    """

    falling: float = 0.1

    family: ClassVar[Literal["verdict"]] = "verdict"
    code: ClassVar[str] = "FIT002"
    rule: ClassVar[str] = "not-memorised"
    unless: ClassVar[tuple[Memorised, Diverged, Flat]] = (Memorised(), Diverged(), Flat())

    def lacks(self, curves: Curves) -> str | None:
        """What memorised needs."""
        return self.unless[0].lacks(curves)

    def holds(self, curves: Curves) -> bool:
        """Whether it learned and did not memorise."""
        return not any(other.holds(curves) for other in self.unless)

    def judge(self, curves: Curves) -> Iterator[Finding]:
        """One finding where it did not memorise."""
        if not self.holds(curves):
            return
        still = self._still_falling(curves)
        how = f"right are {curves.told}" if curves.heads else f"the loss is at {curves.end:.4g}"
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=(
                f"{curves.suite} not memorised after {len(curves.losses)} steps (seed "
                f"{curves.seed}): {how}; the loss, {curves.start:.4g} at the start and "
                f"{curves.end:.4g} now, {'still falls' if still else 'has stopped falling'}."
            ),
            fix=self._fix(curves, still),
            step=curves.steps[-1],
            evidence=tuple(self._evidence(curves)),
        )

    def _quarters(self, curves: Curves) -> tuple[float, float]:
        """Mean loss of the last quarter but one, and of the last."""
        length = max(1, len(curves.losses) // 4)
        last = curves.losses[-length:]
        before = curves.losses[-2 * length : -length] or last
        return fmean(before), fmean(last)

    def _still_falling(self, curves: Curves) -> bool:
        before, last = self._quarters(curves)
        return before - last >= self.falling * abs(before) > 0

    def _fix(self, curves: Curves, still: bool) -> str:
        if still:
            return f"Give it more steps: `--steps {4 * curves.budget}`, or a larger learning rate."
        return (
            "Look for what hides the samples from the model (input, mask, index, detached edge) "
            "before anything else; more data or steps will not mend it."
        )

    def _evidence(self, curves: Curves) -> Iterator[Evidence]:
        for name, head in curves.heads.items():
            yield Evidence(f"`{name}` right", head.hits[-1], head.counts[-1], step=head.steps[-1])
        before, last = self._quarters(curves)
        yield Evidence("loss at the start", curves.start)
        yield Evidence("loss in the last quarter but one", before)
        yield Evidence("loss in the last quarter", last, anchor=curves.name)
