"""FIT014: memorised in training mode, and not in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from overfit.curves import Curves
from overfit.rules.lacking import lacks_look
from overfit.rules.memorised import Memorised
from probes.finding import Evidence, Finding, Verdict


@dataclass(frozen=True, slots=True)
class ModesDisagree:
    """The same weights know the samples in the modes of training, and not in evaluation mode.

    Told where the accuracies of one mode are above those of the other by `gap` of what is counted
    and nearly perfect in training (`known`), or, where nothing is counted, where the loss of
    evaluation mode is `times` that of training mode and that one is memorised (`left` of what
    there was to learn). BatchNorm evaluates with running statistics that must have followed:
    a small momentum, a few steps, or statistics of other data leave them behind.

    Sick: `nn.BatchNorm1d(64, momentum=1e-4)`.
    Healthy: `nn.BatchNorm1d(64)`.
    """

    gap: float = 0.1
    known: float = 0.95
    times: float = 3.0
    left: float = 0.1

    family: ClassVar[Literal["verdict"]] = "verdict"
    code: ClassVar[str] = "FIT014"
    rule: ClassVar[str] = "modes-disagree"
    cures: ClassVar[tuple[str, ...]] = ("dropout off",)
    unless: ClassVar[Memorised] = Memorised()

    def lacks(self, curves: Curves) -> str | None:
        """A look in both modes."""
        return lacks_look(curves)

    def holds(self, curves: Curves) -> bool:
        """Whether what training mode knows is lost in evaluation mode."""
        look = curves.look
        if look is None or self.unless.holds(curves):
            return False
        if curves.heads and look.counts:
            pairs = [
                (look.hits[name] / look.counts[name], head.last)
                for name, head in curves.heads.items()
                if look.counts.get(name)
            ]
            nearly = all(trained >= self.known for trained, _ in pairs)
            return bool(pairs) and nearly and any(t - e >= self.gap for t, e in pairs)
        if look.trained is None or look.evaluated is None or not curves.unread > curves.least:
            return False
        room = curves.unread - curves.least
        low = look.trained - curves.least <= self.left * room
        apart = look.evaluated - curves.least >= self.times * (look.trained - curves.least)
        return low and apart and look.evaluated - curves.least > self.left * room

    def judge(self, curves: Curves) -> Iterator[Finding]:
        """One finding where the modes disagree."""
        if not self.holds(curves):
            return
        look = curves.look
        assert look is not None
        right = ", ".join(f"`{n}` {look.hits[n]:.10g} of {look.counts[n]:.10g}" for n in look.hits)
        trained = right or f"a loss of {look.trained:.4g}"
        told = curves.told or f"a loss of {look.evaluated:.4g}"
        where = f"; the mode of `{look.mode_site}` alone makes most of it" if look.mode_site else ""
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=(
                f"training mode and evaluation mode disagree on {curves.suite}: the same weights "
                f"have {trained} in training mode, and {told} in evaluation mode{where}."
            ),
            fix="Look at what the mode changes: running statistics of BatchNorm that lag behind "
            "(its momentum, its batches), dropout that only evaluation switches off, code that "
            "asks for `self.training`.",
            site=look.mode_site,
            phase="forward",
            step=curves.steps[-1],
            evidence=(
                Evidence("loss in training mode", look.trained),
                Evidence("loss in evaluation mode", look.evaluated, look.trained),
            ),
        )
