"""FIT011: what looks like oscillation is noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar, Literal

from overfit.curves import Curves
from overfit.noise import counting, interval, swing
from overfit.quiet import Quiet
from overfit.rules.diverged import Diverged
from overfit.rules.lacking import lacks_look
from overfit.rules.memorised import Memorised
from overfit.trend import trend
from probes.finding import Evidence, Finding, Verdict


@dataclass(frozen=True, slots=True)
class OnlyNoise:
    """The curves swing, and so does the loss of one and the same weights from call to call.

    Told where the loss swings by `swings` of itself over the last half, at fixed weights by
    `share` of that or more, and does not fall by `falling` a quarter. What is drawn anew in every
    call (dropout that stays on, sampling, noise that is added) keeps the samples from being
    memorised, and no learning rate mends it. Told and confirmed as well, and ahead of all else,
    where the same steps from the same weights memorise them once every number that is drawn is
    held at its mean: normal ones and uniform ones, and dropout keeps all. Not where little (`left`)
    of the loss is left in training mode, with all that is drawn there, and more in evaluation mode:
    the draws kept nothing from being learned, and the modes disagree. Each accuracy is told
    with what counting alone makes it swing: the standard deviation of a share p of n is
    sqrt(p (1 - p) / n).

    Sick: `F.dropout(x, 0.9)` in `forward`, which drops in evaluation too.
    Healthy: `F.dropout(x, 0.1, self.training)`.
    """

    swings: float = 0.05
    share: float = 0.2
    falling: float = 0.2
    left: float = 0.05

    family: ClassVar[Literal["verdict"]] = "verdict"
    code: ClassVar[str] = "FIT011"
    rule: ClassVar[str] = "only-noise"
    unless: ClassVar[tuple[Memorised, Diverged]] = (Memorised(), Diverged())

    def lacks(self, curves: Curves) -> str | None:
        """Losses of the same weights."""
        if (why := lacks_look(curves)) is not None:
            return why
        if curves.look is not None and curves.look.noise is None:
            return "the loss of the same weights could not be taken again"
        return None

    def cured(self, curves: Curves) -> Quiet | None:
        """What the steps came to with nothing drawn, where that memorised the samples."""
        quiet = None if curves.look is None else curves.look.trials.quiet
        if quiet is None or any(other.holds(curves) for other in self.unless):
            return None
        if self._in_spite(curves):
            return None
        low = quiet.loss - curves.least <= self.left * (curves.unread - curves.least)
        right = quiet.right is None or quiet.right >= 1
        return quiet if right and (low or not curves.derived) else None

    def holds(self, curves: Curves) -> bool:
        """Whether noise is what keeps the samples from being memorised."""
        return self.cured(curves) is not None or self._swings(curves)

    def _in_spite(self, curves: Curves) -> bool:
        """Whether training mode knows the samples for all its draws, and evaluation does not."""
        look = curves.look
        if look is None or look.trained is None or look.evaluated is None:
            return False
        limit = curves.least + self.left * max(curves.unread - curves.least, 0.0)
        return look.trained <= limit < look.evaluated

    def _swings(self, curves: Curves) -> bool:
        look, course = curves.look, trend(curves.losses, curves.passes)
        if look is None or not look.noise or course is None or course.falls > self.falling:
            return False
        if self._in_spite(curves) or any(other.holds(curves) for other in self.unless):
            return False
        half = curves.losses[len(curves.losses) // 2 :]
        wild = swing(half)
        return wild >= self.swings * abs(fmean(half)) and look.noise >= self.share * wild

    def judge(self, curves: Curves) -> Iterator[Finding]:
        """One finding where noise is what keeps the samples from being memorised."""
        if not self.holds(curves):
            return
        look, half = curves.look, curves.losses[len(curves.losses) // 2 :]
        assert look is not None
        assert look.noise is not None
        told = f"; right are {curves.told}" if curves.heads else ""
        cured = self.cured(curves)
        drawn = cured.sources if cured else ()
        if cured is not None:
            told += f"; {cured.words}"
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=(
                f"training on {curves.suite} does not oscillate, it is noisy: the loss swings by "
                f"{swing(half):.3g} around {fmean(half):.4g}, and by {look.noise:.3g} from call to "
                f"call at fixed weights{told}."
            ),
            fix=_fix(drawn),
            site="model",
            phase="forward",
            step=curves.steps[-1],
            source=drawn[0] if drawn else None,
            confirmed=True if cured else None,
            evidence=tuple(self._evidence(curves)),
        )

    def _evidence(self, curves: Curves) -> Iterator[Evidence]:
        look, half = curves.look, curves.losses[len(curves.losses) // 2 :]
        assert look is not None
        yield Evidence("swing of the loss over the last half", swing(half), anchor=curves.name)
        yield Evidence("deviation of the loss at fixed weights", look.noise)
        if (cured := self.cured(curves)) is not None:
            yield Evidence("loss with every draw at its mean", cured.loss)
        for name, head in curves.heads.items():
            shares = [h / c for h, c in zip(head.hits, head.counts, strict=True)]
            by_counting = counting(fmean(shares[len(shares) // 2 :]), head.counts[-1])
            what = f"swing of `{name}`, beside what counting alone gives"
            yield Evidence(what, swing(shares[len(shares) // 2 :]), by_counting)
            yield Evidence(f"`{name}` right", interval(head.hits[-1], head.counts[-1]))


def _fix(drawn: tuple[str, ...]) -> str:
    """What to do about it, with the lines that draw."""
    what = "what is drawn anew in every call (dropout that stays on, sampling, noise)"
    if not drawn:
        return f"Look {what} and take it away; no learning rate mends it."
    return (
        f"Make smaller, or take away, {what}: it is drawn at {', '.join(drawn[:3])}; no learning "
        "rate mends it."
    )
