"""FIT010: the step is too large."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from statistics import fmean, median
from typing import ClassVar, Literal

from overfit.curves import Accuracy, Curves
from overfit.gentler import Gentler
from overfit.interventions import SMALLER
from overfit.noise import swing
from overfit.rules.diverged import Diverged
from overfit.rules.lacking import lacks_look
from overfit.rules.memorised import Memorised
from overfit.settled import Settled
from overfit.spikes import Spikes, spikes
from overfit.trend import trend
from probes.finding import Evidence, Finding, Verdict


@dataclass(frozen=True, slots=True)
class Thrown:
    """The lowest loss of a pass, the highest of the few after it, and the step between them."""

    low: float
    high: float
    step: int


@dataclass(frozen=True, slots=True)
class StepTooLarge:
    """The loss jumps about or the net was killed, and not by noise: the step is too large.

    The same samples in every step give a loss that falls smoothly while the step is small enough.
    Told where it swings by `swings` of itself over the last half and rises in `rises` of its
    steps, at `times` of what the same weights give from call to call, and does not fall by
    `falling` a quarter, more than the swings themselves make of it. Where the loss draws something,
    a pass that stands alone above or below its neighbours does not count: a step stays in the
    weights, and a draw goes with its pass. Or where the untrained model followed its input
    (`began`), the trained one does not at all (`ended`), and the weights kept `kept` of their size,
    so that it was no decay: the steps killed every unit. A model that hardly followed it (by less
    than `firm`) was killed only where the loss leapt to `leapt` times its start, or the weights
    went `flew` times their size; else it never learned to. Nor was it the step where a tenth of it,
    from the start, leaves the model reading, and neither that nor a hundredth brings the loss below
    `calmed` of what there is to learn. Or where the loss had been low, rose within `few` passes
    from there to what it is before anything is read, and ends at `back` times that low or more,
    with fewer right than there were: steps against the gradient's slope do not leave what they have
    come to. Or where the first `few` passes threw the loss to `flew` times its start, and the
    weights went `far` times their own size. Or where, from the weights at the end, some tens of
    steps at a tenth of the rate leave `settled` of the loss that as many at the whole rate leave,
    or less, and of what it was, with more right: the whole steps go back and forth above what they
    lead to. Or where the loss of the last half left what it had come down to, at or under its
    start, for `leapt` times that start, and did so `again` times or more: a step that goes down the
    slope of the same samples leads to none of these, unless a tenth of it is no better.

    Sick: `Adam(model.parameters(), lr=0.5)`.
    Healthy: the same with lr=0.005.
    """

    swings: float = 0.1
    rises: float = 0.2
    times: float = 6.0
    falling: float = 0.2
    began: float = 1e-5
    ended: float = 1e-6
    firm: float = 1e-3
    leapt: float = 2.0
    kept: float = 0.7
    left: float = 0.05
    few: int = 5
    flew: float = 10.0
    far: float = 2.0
    back: float = 1.5
    settled: float = 0.3
    calmed: float = 0.5
    again: int = 2

    family: ClassVar[Literal["verdict"]] = "verdict"
    code: ClassVar[str] = "FIT010"
    rule: ClassVar[str] = "step-overshoots"
    cures: ClassVar[tuple[str, ...]] = (SMALLER,)
    unless: ClassVar[tuple[Memorised, Diverged]] = (Memorised(), Diverged())

    def lacks(self, curves: Curves) -> str | None:
        """A look at the trained model."""
        return lacks_look(curves)

    def holds(self, curves: Curves) -> bool:
        """Whether the step is too large."""
        if curves.look is None or any(other.holds(curves) for other in self.unless):
            return False
        return (
            self.killed(curves)
            or self._jumps(curves)
            or self.flung(curves)
            or self.thrown(curves) is not None
            or self.settles(curves) is not None
            or self.spiked(curves) is not None
        )

    def spiked(self, curves: Curves) -> Spikes | None:
        """How the loss leapt above its start again and again, where no draw made it."""
        look, rounds = curves.look, _rounds(curves)
        if look is None or look.noise is None or not all(map(isfinite, rounds)):
            return None
        if min(rounds, default=-1.0) < 0:  # the start of a loss that has no least is no measure
            return None
        if not curves.left > self.left or (look.reading is not None and look.reading <= self.ended):
            return None
        tried = look.trials.settled
        if tried is not None and not tried.smaller < tried.kept:
            return None
        above = curves.start + (self.leapt - 1) * abs(curves.start)
        found = spikes(_without_draws(rounds) if look.noise else rounds, curves.start, above)
        if found is None or found.count < self.again:
            return None
        return found if found.high - found.low > self.times * look.noise else None

    def settles(self, curves: Curves) -> Settled | None:
        """What a tenth of the rate came to at once, where that is far less than the whole does."""
        look = curves.look
        tried = None if look is None else look.trials.settled
        if look is None or tried is None or curves.gone or look.miscounted:
            return None
        if look.reading is not None and look.reading <= self.ended:
            return None
        kept, smaller, end = (
            each - curves.least for each in (tried.kept, tried.smaller, curves.end)
        )
        if not kept - smaller > self.times * (look.noise or 0.0):
            return None
        if tried.right_smaller is not None and tried.right_kept is not None:
            before = min((head.last for head in curves.heads.values()), default=0.0)
            if tried.right_smaller <= max(tried.right_kept, before):
                return None
        kept = min(kept, end)  # below zero nothing is a share of it
        return tried if kept > 0 and smaller <= self.settled * kept else None

    def flung(self, curves: Curves) -> bool:
        """Whether the first steps threw the loss up, and the weights far from where they began."""
        look, first = curves.look, curves.losses[: 1 + self.few * curves.passes]
        if look is None or look.moved is None or not first or not curves.left > self.left:
            return False
        high = first[0] + (self.flew - 1) * abs(first[0])
        return look.moved >= self.far and max(first) > high

    def killed(self, curves: Curves) -> bool:
        """Whether training made a model blind that was not."""
        look = curves.look
        if look is None or look.began_reading is None or look.reading is None:
            return False
        if look.began_reading < self.began or look.reading > self.ended:
            return False
        leapt = max(curves.losses) > self.leapt * curves.start
        if look.began_reading < self.firm and not leapt and not (look.moved or 0.0) >= self.flew:
            return False
        if look.size is not None and look.size < self.kept:  # decay kills as well
            return False
        return not self._in_vain(curves, look.trials.gentler)

    def _in_vain(self, curves: Curves, tried: tuple[Gentler, ...]) -> bool:
        """Whether smaller steps leave the model reading, and it learns no more by them."""
        if not tried or tried[0].reading is None or tried[0].reading <= self.began:
            return False
        limit = curves.least + self.calmed * (curves.unread - curves.least)
        return all(each.loss > limit for each in tried)

    def _jumps(self, curves: Curves) -> bool:
        half, course = _last_half(curves), trend(curves.losses, curves.passes)
        look = curves.look
        if course is None or look is None or len(half) < 8 or not curves.left > self.left:
            return False
        if look.reading is not None and look.reading <= self.ended:
            return False  # it is blind, and that is another matter
        mean = abs(fmean(half)) or 1.0
        wild = swing(_without_draws(half) if look.noise else half) / mean
        up = sum(b > a for a, b in pairwise(half)) / (len(half) - 1)
        noise = self.times * (look.noise or 0.0) / mean
        calm = course.falls <= self.falling or not course.is_sure
        return wild >= self.swings and wild > noise and up >= self.rises and calm

    def thrown(self, curves: Curves) -> Thrown | None:
        """The pass in which a loss that had been low lost it all, and never came back."""
        look, rounds, before = curves.look, _rounds(curves), curves.unread - curves.least
        if look is None or look.noise is None or not before > 0 or not curves.left > self.left:
            return None
        if any(head.last >= max(_shares(head)) for head in curves.heads.values()):
            return None
        low = min(range(len(rounds)), key=rounds.__getitem__, default=0)
        after = rounds[low + 1 : low + 1 + self.few]
        if not after or not all(map(isfinite, rounds)):
            return None
        lowest, high, now = (each - curves.least for each in (rounds[low], max(after), curves.end))
        noise = self.times * look.noise
        if high < before or now < self.back * lowest or now - lowest <= noise:
            return None
        return Thrown(rounds[low], max(after), (low + 1) * curves.passes)

    def leap(self, curves: Curves) -> Thrown | None:
        """The largest rise from one pass to the next, from half of what is unread to all of it."""
        rounds, before, look = _rounds(curves), curves.unread - curves.least, curves.look
        if look is None or look.noise is None or not all(map(isfinite, rounds)):
            return None
        steps = [(b - a, at, a, b) for at, (a, b) in enumerate(pairwise(rounds), 1)]
        rise, at, low, high = max(steps, default=(0.0, 0, 0.0, 0.0))
        if rise <= self.times * look.noise or not 2 * (low - curves.least) <= before:
            return None
        return Thrown(low, high, at * curves.passes) if high - curves.least >= before else None

    def judge(self, curves: Curves) -> Iterator[Finding]:
        """One finding where the step is too large."""
        if not self.holds(curves):
            return
        look, half = curves.look, _last_half(curves)
        assert look is not None
        thrown = None if self._jumps(curves) else self.thrown(curves)
        spiked = self.spiked(curves)
        if self.killed(curves):
            why = (
                f"training killed the model: at the start the loss followed the input, now it "
                f"does not, and the weights went {look.moved or 0.0:.2g} times their own size"
            )
        elif self.flung(curves):
            first = curves.losses[: 1 + self.few * curves.passes]
            why = (
                f"the first steps threw the loss from {first[0]:.4g} to {max(first):.4g}, and the "
                f"weights went {look.moved or 0.0:.2g} times their own size"
            )
        elif thrown is not None:
            why = (
                f"the loss had come down to {thrown.low:.4g}, rose from there to {thrown.high:.4g} "
                f"within {self.few * curves.passes} steps, and is {curves.end:.4g} at the end; at "
                f"fixed weights it moves by {look.noise or 0.0:.2g}, so it is no noise"
            )
        elif spiked is not None:
            why = (
                f"the loss, {curves.start:.4g} at the start, is thrown above it again and again, "
                f"{spiked.count} times in the last half: from {spiked.low:.4g} to "
                f"{spiked.high:.4g} about step {spiked.at * curves.passes}; at fixed weights it "
                f"moves by {look.noise or 0.0:.2g}, so it is no noise"
            )
        elif not self._jumps(curves) and (tried := self.settles(curves)) is not None:
            why = (
                f"from the weights that it ended with, {tried.steps} steps at a tenth of the "
                f"learning rate bring the loss down to {tried.smaller:.4g}, and {tried.steps} at "
                f"the whole rate to {tried.kept:.4g}"
            )
        else:
            why = (
                f"the loss swings by {swing(half):.3g} around {fmean(half):.4g} from step to step, "
                f"and by {look.noise or 0.0:.2g} at fixed weights, so it is no noise"
            )
        told = f"; right are {curves.told}" if curves.heads else ""
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"the step is too large for {curves.suite}: {why}{told}.",
            fix="Make the step smaller: a learning rate ten times lower, or a warm-up.",
            site="<optimizer>",
            phase="update",
            step=curves.steps[-1],
            evidence=tuple(self._evidence(curves)),
        )

    def _evidence(self, curves: Curves) -> Iterator[Evidence]:
        look, half = curves.look, _last_half(curves)
        assert look is not None
        mean = abs(fmean(half)) or 1.0
        yield Evidence("swing of the loss, of itself", swing(half) / mean, self.swings)
        yield Evidence("the same at fixed weights", (look.noise or 0.0) / mean)
        yield Evidence("way of the weights, of their size", look.moved)
        yield Evidence("highest loss", max(curves.losses), curves.start, anchor=curves.name)


def _rounds(curves: Curves) -> list[float]:
    """The loss of each pass over the samples."""
    p = curves.passes
    return [fmean(curves.losses[i : i + p]) for i in range(0, len(curves.losses) - p + 1, p)]


def _last_half(curves: Curves) -> list[float]:
    rounds = _rounds(curves)
    return rounds[len(rounds) // 2 :]


def _without_draws(rounds: list[float]) -> list[float]:
    """The median of each pass and its two neighbours."""
    return [median(rounds[max(0, at - 1) : at + 2]) for at in range(len(rounds))]


def _shares(head: Accuracy) -> list[float]:
    return [hit / count for hit, count in zip(head.hits, head.counts, strict=True)]
