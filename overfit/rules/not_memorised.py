"""FIT002: something was learned, but the samples were not memorised, and no rule says why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from overfit.curves import Curves
from overfit.miscounted import Miscounted
from overfit.rules.ceiling_reached import CeilingReached
from overfit.rules.conflicting_labels import ConflictingLabels
from overfit.rules.copy_lags import CopyLags
from overfit.rules.decay_holds import DecayHolds
from overfit.rules.diverged import Diverged
from overfit.rules.flat import Flat
from overfit.rules.head_stuck import HeadStuck
from overfit.rules.idle_optimizer import IdleOptimizer
from overfit.rules.larger_not_memorised import LargerNotMemorised
from overfit.rules.memorised import Memorised
from overfit.rules.modes_disagree import ModesDisagree
from overfit.rules.only_noise import OnlyNoise
from overfit.rules.other_scale import MetricOnOtherScale
from overfit.rules.rate_gone import RateGone
from overfit.rules.regulariser_holds import RegulariserHolds
from overfit.rules.signal_cut import SignalCut
from overfit.rules.step_overshoots import StepTooLarge
from overfit.rules.stuck_on_floor import StuckOnFloor
from overfit.rules.too_slow import TooSlow
from overfit.rules.unlocked import Unlocked
from overfit.trend import trend
from probes.finding import Evidence, Finding, Outcome, Verdict

REASONS: tuple[Outcome[Curves], ...] = (
    IdleOptimizer(),
    Diverged(),
    MetricOnOtherScale(),
    CopyLags(),
    ConflictingLabels(),
    CeilingReached(),
    ModesDisagree(),
    RateGone(),
    DecayHolds(),
    StepTooLarge(),
    RegulariserHolds(),
    StuckOnFloor(),
    HeadStuck(),
    SignalCut(),
    OnlyNoise(),
    TooSlow(),
    Flat(),
    LargerNotMemorised(),
    Unlocked(),
)
"""Every verdict that says why, the likeliest to be the cause of the others first."""


@dataclass(frozen=True, slots=True)
class NotMemorised:
    """The model learned something of the samples and then stopped, and no other verdict holds.

    Where the loss is all but gone, and all labels that it is given have the largest score, the
    accuracy counts by others, wrongly, or the loss is given the wrong ones: its line is named. So
    is that of an accuracy that counts more labels than the loss scores. A loss that leapt on the
    way, and came down again, is told of as well.

    Sick: a head whose scores are held between -1 and 1, so that no loss near zero can be had.

        loss=lambda model, batch: F.cross_entropy(model(batch["x"]).tanh(), batch["y"])

    Healthy: the same without `.tanh()`.
    """

    family: ClassVar[Literal["verdict"]] = "verdict"
    code: ClassVar[str] = "FIT002"
    rule: ClassVar[str] = "not-memorised"
    unless: ClassVar[Memorised] = Memorised()
    slow: ClassVar[TooSlow] = TooSlow()

    def lacks(self, curves: Curves) -> str | None:
        """What memorised needs."""
        return self.unless.lacks(curves)

    def holds(self, curves: Curves) -> bool:
        """Whether it did not memorise, and nothing says why."""
        if self.unless.holds(curves) or self.slow.is_short(curves):
            return False
        return not any(
            each.verdict is Verdict.FAIL or each.code == LargerNotMemorised.code
            for rule in REASONS
            if rule.lacks(curves) is None
            for each in rule.judge(curves)
        )

    def judge(self, curves: Curves) -> Iterator[Finding]:
        """One finding where it did not memorise."""
        if not self.holds(curves):
            return
        wrong = _miscounted(curves)
        how = f"right are {curves.told}" if curves.heads else f"the loss is at {curves.end:.4g}"
        tends = _tends(curves)
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=(
                f"{curves.suite} not memorised after {len(curves.losses)} steps (seed "
                f"{curves.seed}): {how}; the loss, {curves.start:.4g} at the start, is "
                f"{curves.end:.4g} now{tends}{_of_leap(curves)}{_of_labels(curves)}"
                f"{'' if wrong is None else _words(wrong)}."
            ),
            fix=_fix(curves, wrong),
            step=curves.steps[-1],
            source=None if wrong is None else wrong.source,
            evidence=tuple(_evidence(curves)),
        )


def _miscounted(curves: Curves) -> Miscounted | None:
    """The first accuracy that is wrong of what the loss has right, where that is all but gone."""
    found = curves.look.miscounted if curves.look is not None and curves.gone else ()
    return next(iter(found), None)


def _words(wrong: Miscounted) -> str:
    line = f" at {wrong.source}" if wrong.source else ""
    if wrong.count > wrong.scored:
        return (
            f"; all {wrong.scored:.10g} labels that the loss scores have the largest score, and "
            f"`{wrong.head}`{line} counts {wrong.count:.10g}, so it counts what the loss does not "
            "score"
        )
    return (
        f"; all {wrong.count:.10g} labels that `{wrong.target}` is given have the largest score, "
        f"so `{wrong.head}`{line} counts by other labels or scores than the loss"
    )


def _tends(curves: Curves) -> str:
    """Where the loss is heading; of one that a few steps keep up, what it is on average."""
    course = trend(curves.losses, curves.passes)
    if course is None:
        return ""
    if curves.end < 0:
        return f", and {course.last:.4g} on average over the last quarter"
    limit = f"{max(course.limit, 0.0):.4g}"
    if course.limit <= curves.end or limit == f"{curves.end:.4g}":
        return f", and tends to {limit}"
    return f", and {course.last:.4g} on average over the last quarter"


def _of_leap(curves: Curves) -> str:
    """That the loss was thrown back to where nothing is read, though it is lower again."""
    leap = StepTooLarge().leap(curves)
    if leap is None:
        return ""
    return f"; at step {leap.step} it leapt from {leap.low:.4g} to {leap.high:.4g}"


def _of_labels(curves: Curves) -> str:
    """That a loss without a least is no lower with a sample's own label than with another."""
    apart = curves.apart
    if apart is None or apart.told or not curves.endless:
        return ""
    return (
        f"; it has no least, and for {apart.count - apart.right} of the {apart.count} samples that "
        "were looked at it is lower with another's label than with their own"
    )


def _fix(curves: Curves, wrong: Miscounted | None) -> str:
    if wrong is not None and wrong.count > wrong.scored:
        return "Look which labels are ignored, or masked out of the loss, that are to be learned."
    if curves.gone:
        return (
            "Look at what is counted, since the loss is all but gone: whether it reads the same "
            "labels and outputs as the loss, which of the two is right, and how near is near "
            "enough."
        )
    if _of_labels(curves):
        return (
            "A density can call a sample uncertain in place of learning it: look whether its mean "
            "reads the input and gets a gradient, and try a variance that is fixed at first."
        )
    if StepTooLarge().leap(curves) is not None:
        return (
            "Try a smaller step first, since the loss leaps (a learning rate ten times lower, or a "
            "warm-up); then `whynan diagnose --why`."
        )
    return (
        "Look for what keeps the output from being sure of itself (bounded scores, a penalty in "
        "the loss, a narrow layer), and try `whynan diagnose --why`."
    )


def _evidence(curves: Curves) -> Iterator[Evidence]:
    for name, head in curves.heads.items():
        yield Evidence(f"`{name}` right", head.told, step=head.steps[-1])
    yield Evidence("loss at the start", curves.start)
    yield Evidence("loss at the end", curves.end, anchor=curves.name)
