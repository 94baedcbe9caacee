"""FIT004: the loss did not move."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from overfit.brake import brake
from overfit.curves import Curves
from overfit.interventions import LARGER, NO_SCHEDULE
from overfit.rules.diverged import Diverged
from overfit.rules.lacking import lacks_course
from overfit.rules.larger_not_memorised import LargerNotMemorised
from overfit.rules.memorised import Memorised
from overfit.rules.too_slow import TooSlow
from probes.finding import Evidence, Finding, Verdict

RAISE = "Raise the learning rate by a hundred or more, or find out what keeps the gradients small."
LOOK = (
    "Look whether the input reaches the output and every parameter the optimizer, and whether the "
    "learning rate is of the right order."
)


@dataclass(frozen=True, slots=True)
class Flat:
    """Nothing was learned: the loss ended about where it began, and no head became better.

    It holds where the median loss of the last pass lies less than `fall` of the start below the
    start, and no head gained more than `gain` of its positions; not where fewer of these samples
    are memorised, and the weights went `moved` of their size on all of them. Where the weights
    went `crawl` of their size at most, it was the steps that were too small.

    Sick: the parameters that would learn never reach the optimizer, or the step is far too small.

        optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=1e-9)

    Healthy: the same with lr=0.1.
    """

    fall: float = 0.1
    gain: float = 0.25
    crawl: float = 0.01  # of their size: how far weights go in steps that are too small
    moved: float = 0.05

    family: ClassVar[Literal["verdict"]] = "verdict"
    code: ClassVar[str] = "FIT004"
    rule: ClassVar[str] = "flat"
    cures: ClassVar[tuple[str, ...]] = (*LARGER, NO_SCHEDULE)
    unless: ClassVar[tuple[Memorised, Diverged, TooSlow]] = (Memorised(), Diverged(), TooSlow())
    fewer: ClassVar[LargerNotMemorised] = LargerNotMemorised()

    def lacks(self, curves: Curves) -> str | None:
        """A course of the loss, and room for it to fall where no head counts."""
        if (why := lacks_course(curves)) is None and not curves.heads and curves.start == 0:
            return "the loss began at 0, and nothing is counted: give `Subject.metrics`"
        return why

    def holds(self, curves: Curves) -> bool:
        """Whether nothing was learned."""
        if any(other.holds(curves) for other in self.unless):
            return False
        went = curves.look.moved if curves.look is not None else None
        if self.fewer.read(curves) and went is not None and went >= self.moved:
            return False
        fell = curves.start - curves.end > self.fall * abs(curves.start)
        gained = any(head.last - head.first > self.gain for head in curves.heads.values())
        return not fell and not gained

    def judge(self, curves: Curves) -> Iterator[Finding]:
        """One finding where nothing was learned."""
        if not self.holds(curves):
            return
        moved = curves.look.moved if curves.look is not None else None
        small = moved is not None and 0 < moved <= self.crawl
        held = brake(curves)
        more = _told(curves, moved, small) + (f"; {held.words}" if held else "")
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=(
                f"nothing was learned from {curves.suite} in {len(curves.losses)} steps (seed "
                f"{curves.seed}): the loss went from {curves.start:.4g} to {curves.end:.4g}{more}."
            ),
            fix=held.fix if held else RAISE if small else LOOK,
            site="<optimizer>" if small else "<loss>",
            step=curves.steps[-1],
            evidence=(
                Evidence("loss at the start", curves.start),
                Evidence(
                    "loss at the end",
                    curves.end,
                    curves.start - self.fall * abs(curves.start),
                    anchor=curves.name,
                ),
                *(
                    Evidence(f"`{name}` gained", head.last - head.first, self.gain)
                    for name, head in curves.heads.items()
                ),
                *(held.evidence if held else ()),
            ),
        )


def _told(curves: Curves, moved: float | None, small: bool) -> str:
    """What is right, how far the weights went, and whether that was too little."""
    told = f"; right are {curves.told}" if curves.heads else ""
    if moved is not None:
        told += f"; the weights went {moved:.2g} of their size"
    if small and curves.drive is not None:
        told += f" at a learning rate of {curves.drive.rate:.3g}, so the steps are too small"
    return told
