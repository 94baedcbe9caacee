"""FIT020: a term that reads no label keeps the others from being learned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from overfit.curves import Curves
from overfit.released import STEPS, Released
from overfit.rules.diverged import Diverged
from overfit.rules.lacking import lacks_look
from overfit.rules.memorised import Memorised
from probes.finding import Evidence, Finding, Verdict


@dataclass(frozen=True, slots=True)
class RegulariserHolds:
    """The samples are not memorised, and a term of the loss that reads no label is why.

    A KL against a prior, a norm of the weights or of a code asks for nothing that is to be learned.
    Told by experiment: from where the suite ended, a hundred steps of the same optimizer with these
    terms taken out of the loss bring what the other terms sum to down to `released` or less of what
    as many steps of the whole loss leave, which is `stays` of what it was or more, and `left` of
    what it was at the start: it was no matter of time, and there was something to learn.

    Sick: `mse.mean() + kl.sum(1).mean()`, a mean over a thousand pixels beside a sum over latents.
    Healthy: `mse.sum(1).mean() + kl.sum(1).mean()`.
    """

    released: float = 0.5
    stays: float = 0.6
    left: float = 0.1

    family: ClassVar[Literal["verdict"]] = "verdict"
    code: ClassVar[str] = "FIT020"
    rule: ClassVar[str] = "regulariser-holds"
    unless: ClassVar[tuple[Memorised, Diverged]] = (Memorised(), Diverged())

    def lacks(self, curves: Curves) -> str | None:
        """A look at the trained model."""
        return lacks_look(curves)

    def held(self, curves: Curves) -> Released | None:
        """What came of it, where it holds."""
        found = None if curves.look is None else curves.look.released
        if found is None or any(other.holds(curves) for other in self.unless):
            return None
        holds = (
            found.without <= self.released * found.kept
            and found.kept >= self.stays * found.before
            and found.before >= self.left * found.began > 0
        )
        return found if holds else None

    def judge(self, curves: Curves) -> Iterator[Finding]:
        """One finding where it holds the others."""
        found = self.held(curves)
        if found is None:
            return
        told = f"; right are {curves.told}" if curves.heads else ""
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=(
                f"a term of the loss that reads no label, `{found.term}` of weight "
                f"{found.weight:.3g}, keeps the others from being learned on {curves.suite}: they "
                f"stand at {found.before:.3g} of {found.began:.3g}; {STEPS} steps more bring them "
                f"to {found.kept:.3g} with it, and to {found.without:.3g} without it{told}."
            ),
            fix="Give that term a smaller weight, or reduce it as the others are: a sum over "
            "latents outweighs a mean over pixels by their numbers.",
            site="<loss>",
            phase="forward",
            step=curves.steps[-1],
            source=found.source,
            evidence=(
                Evidence("the other terms at the end", found.before, found.began),
                Evidence(f"the same {STEPS} steps later", found.kept),
                Evidence(
                    "and without that term",
                    found.without,
                    self.released * found.kept,
                    anchor=curves.name,
                ),
            ),
        )
