"""FIT009: it learns, and would need more steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from overfit.brake import added_up, brake
from overfit.curves import Curves
from overfit.interventions import LARGER, NO_SCHEDULE
from overfit.rules.diverged import Diverged
from overfit.rules.lacking import lacks_course
from overfit.rules.memorised import Memorised
from overfit.trend import trend
from probes.finding import Evidence, Finding, Verdict

SOME = 0.9  # of the learning rate: what a schedule that left less took off


@dataclass(frozen=True, slots=True)
class TooSlow:
    """The loss was still falling when the steps ended, on its way to being memorised.

    It fell by `falling` or more from the third quarter to the last, and, each quarter's fall over
    the one before staying as it is, comes to `target` of what there was to learn within `most`
    times the steps that it had. How many that would be is extrapolated, and said to be so: along
    a line, towards a limit, or as a power of the steps. Where a schedule, clipping or an eps left
    a tenth of the steps or less, or gradients of many calls go into each of few steps, that is
    said; else, how far the weights went, and at what rate.
    A fall that shrinks towards a limit above the target is no matter of steps, unless it is `fast`
    and no fewer samples were memorised, or it is known what holds the steps back. Neither is it
    where a narrow layer in front of affine ones makes most of the error that is left.
    It is a note where training is in order and the suite was short: the same loop memorised fewer
    samples, nothing held the steps back, every head has `nearly` of it right, and as many steps
    again would do. Where every head had `almost` of it right and `with_heads` of the loss was left,
    the suite has gone on for as many steps again by then.

    Sick: `Adam(model.parameters(), lr=1e-5)`.
    Healthy: the same with lr=1e-2.
    """

    falling: float = 0.002
    fast: float = 0.05
    target: float = 0.05
    with_heads: float = 0.15
    most: float = 100.0
    nearly: float = 0.9
    almost: float = 0.8

    family: ClassVar[Literal["verdict"]] = "verdict"
    code: ClassVar[str] = "FIT009"
    rule: ClassVar[str] = "too-slow"
    cures: ClassVar[tuple[str, ...]] = (*LARGER, NO_SCHEDULE)
    unless: ClassVar[tuple[Memorised, Diverged]] = (Memorised(), Diverged())

    def lacks(self, curves: Curves) -> str | None:
        """A course that is long enough."""
        if (why := lacks_course(curves)) is not None:
            return why
        short = trend(curves.losses, curves.passes) is None and curves.ended == "steps"
        if short and added_up(curves) is None:
            return f"{len(curves.losses)} steps are too few to tell a trend"
        return None

    def holds(self, curves: Curves) -> bool:
        """Whether more steps would do."""
        if any(other.holds(curves) for other in self.unless):
            return False
        return self.needed(curves) is not None or self._few(curves)

    def _few(self, curves: Curves) -> bool:
        """Whether it fell in the few steps that adding up gradients left, too few for a trend."""
        course = trend(curves.losses, curves.passes)
        return course is None and added_up(curves) is not None and curves.end < curves.start

    def needed(self, curves: Curves) -> int | None:
        """How many more steps it would take, extrapolated; None where it does not lack steps."""
        course = trend(curves.losses, curves.passes)
        if course is None or course.falls < self.falling or not course.is_sure:
            return None
        if curves.look is not None and curves.look.held_up is not None:
            return None
        wrong = curves.look is not None and bool(curves.look.miscounted)
        if curves.gone and curves.heads and (wrong or not _gains(curves)):
            return None
        share = self.with_heads if curves.heads else self.target
        room = max(curves.unread - curves.least, 0.0)
        more = course.needed(curves.least + share * room)
        if more is None:
            more = course.by_power(curves.least + share * room)
        pace, most = course.at_this_pace(curves.least + share * room), self.most * curves.budget
        if more is None and course.falls >= self.fast and not self._fewer_known(curves):
            more = pace
        if (more is None or more > most) and brake(curves) is not None:
            more = pace
        if more == 0:  # the loss is low enough, and heads still gain, or lack little
            gains = _gains(curves) or not curves.heads or self._lacks_little(curves)
            more = len(curves.losses) if gains else None
        return more if more is not None and more <= most else None

    def is_short(self, curves: Curves) -> bool:
        """Whether it is the suite that was short, and training is in order."""
        if not self.holds(curves) or not curves.heads or brake(curves) is not None:
            return False
        more = self.needed(curves)
        short = more is not None and more <= len(curves.losses)
        return short and self._lacks_little(curves) and self._fewer_known(curves)

    def _lacks_little(self, curves: Curves) -> bool:
        """Whether every head has nearly all of it right."""
        return all(head.last >= self.nearly for head in curves.heads.values())

    def nears(self, curves: Curves) -> bool:
        """Whether the loss still falls, and little is left: a suite may then go on."""
        course = trend(curves.losses, curves.passes)
        if course is None or course.falls < self.falling or not course.is_sure:
            return False
        if not curves.left <= self.with_heads:
            return False
        return all(head.last >= self.almost for head in curves.heads.values())

    def _fewer_known(self, curves: Curves) -> bool:
        """Whether a suite of fewer samples was memorised, so that time may not be what it lacks."""
        return any(self.unless[0].holds(each) for each in curves.smaller)

    def judge(self, curves: Curves) -> Iterator[Finding]:
        """One finding where it is too slow."""
        if not self.holds(curves):
            return
        if self._few(curves):
            yield self._in_few(curves)
            return
        more = self.needed(curves)
        course = trend(curves.losses, curves.passes)
        assert more is not None
        assert course is not None
        whole = _round_up(len(curves.losses) + more)
        told = f", right are {curves.told}" if curves.heads else ""
        held = brake(curves)
        since = f", since {held.words}" if held else ""
        short = self.is_short(curves)
        what = (
            f"{curves.suite} are nearly memorised, in too few steps"
            if short
            else f"training on {curves.suite} is too slow{since}"
        )
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.NOTE if short else Verdict.FAIL,
            message=(
                f"{what}: after {len(curves.losses)} steps "
                f"the loss is {curves.end:.4g} of {curves.start:.4g} and still falls{told}; "
                f"{'' if short or held else _pace(curves)}"
                f"extrapolated, it would need about {whole} steps in all."
            ),
            fix=held.fix
            if held
            else f"Give it time: `--steps {whole}`."
            if short
            else f"Try a learning rate ten times higher{_warm_up(curves)}; or give it time: "
            f"`--steps {whole}`.",
            site="<optimizer>",
            step=curves.steps[-1],
            evidence=(
                Evidence("loss in the third quarter", course.third),
                Evidence("loss in the last quarter", course.last, anchor=curves.name),
                Evidence("fall from one to the other", course.falls, self.falling),
                Evidence("steps it would need, extrapolated", whole, curves.budget),
                *(held.evidence if held else ()),
            ),
        )

    def _in_few(self, curves: Curves) -> Finding:
        """It fell, in the few steps that there were."""
        held = added_up(curves)
        assert held is not None
        told = f", right are {curves.told}" if curves.heads else ""
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"training on {curves.suite} is too slow, since {held.words}: the loss came "
            f"from {curves.start:.4g} to {curves.end:.4g} in these{told}.",
            fix=held.fix,
            site="<optimizer>",
            step=curves.steps[-1],
            evidence=(Evidence("loss at the end", curves.end, curves.start), *held.evidence),
        )


def _pace(curves: Curves) -> str:
    """How far the weights went, at which rate, and what the schedule left of it."""
    drive, moved = curves.drive, curves.look.moved if curves.look is not None else None
    if drive is None or not drive.rate or moved is None:
        return ""
    left = (drive.usual or drive.rate) / drive.rate
    last = "" if drive.last is None else f" and {drive.last / drive.rate:.2g} in the last"
    share = f", of which the schedule left {left:.2g} in the median step{last}," * (left < SOME)
    at = f"at a learning rate of {drive.rate:.3g}{share}"
    return f"{at} the weights went {moved:.2g} of their size; "


def _warm_up(curves: Curves) -> str:
    """What to do about one that had not ended."""
    drive = curves.drive
    if drive is None or drive.rate is None or drive.last is None or drive.usual is None:
        return ""
    rises = drive.usual < drive.last < SOME * drive.rate
    return ", and a warm-up that ends within these steps" if rises else ""


def _gains(curves: Curves) -> bool:
    """Whether some accuracy grew over the last half of the evaluations."""
    pairs = ((head.hits[len(head.hits) // 2], head.hits[-1]) for head in curves.heads.values())
    return any(after > before for before, after in pairs)


def _round_up(steps: int) -> int:
    """To two digits."""
    unit: int = 10 ** max(0, len(str(steps)) - 2)
    return -(-steps // unit) * unit
