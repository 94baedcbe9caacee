"""FIT006: all that can be right is right, and that is not all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from overfit.ceilings import EMPTY, UNREACHABLE, UNSCORED, Ceiling
from overfit.curves import Accuracy, Curves
from overfit.reach import Reach
from overfit.rules.lacking import lacks_course
from overfit.rules.memorised import Memorised
from probes.finding import Evidence, Finding, Verdict
from probes.scoring.bounds import fix, words

UNTAUGHT = "labels that are counted, but that the loss does not score"
FIXES = {
    UNREACHABLE: "Give the output a class for each of these labels, and look whether a mask hides "
    "it; or leave them out of the accuracy.",
    UNSCORED: "Count the same places as the loss does: leave ignored labels out of the accuracy.",
    UNTAUGHT: "Look which labels are ignored, or masked out of the loss, that are to be learned; "
    "or leave them out of the accuracy.",
    EMPTY: "Leave out the samples that have no target, or find out where it was lost.",
}


@dataclass(frozen=True, slots=True)
class CeilingReached:
    """An accuracy is as high as any model can make it on these samples, and below 1.

    Some of what is counted can never be right: labels that are no class of the output or whose
    score a mask hides, places that the metric counts and the loss ignores, samples without any
    target; as good as those are labels that the metric counts, and a loss without them that has
    all others right, and next to nothing left. Told where what is right lies within `near` labels
    of the most that can be, and every other accuracy is perfect or at its own ceiling. Or where
    such labels make `drowns` of the loss or more, so that what may be learned of the others is
    drowned: a mask's -1e9 gives 1e9 for each. Or where numbers are asked for that the operator
    behind the output cannot give, as a softplus none below 0, scaled by what no weight moves, and
    the loss has come down to what these leave of it, within `close` of what there was to learn,
    which is `most` of it or more. Labels that contradict each other are FIT015.

    Sick: `accuracy = (scores.argmax(-1) == labels).float().mean()` where padding is labelled -100.
    Healthy: the same over `labels != -100`.
    """

    near: float = 0.5
    drowns: float = 0.95
    close: float = 0.1
    most: float = 0.5

    family: ClassVar[Literal["verdict"]] = "verdict"
    code: ClassVar[str] = "FIT006"
    rule: ClassVar[str] = "ceiling-reached"
    unless: ClassVar[Memorised] = Memorised()

    def lacks(self, curves: Curves) -> str | None:
        """A course, and labels beside the inputs."""
        if (why := lacks_course(curves)) is not None:
            return why
        if curves.look is not None and curves.look.trials.reach is not None:
            return None
        return curves.unjudged[0] if curves.unjudged and not curves.floors else None

    def holds(self, curves: Curves) -> bool:
        """Whether a ceiling keeps the samples from being memorised, and nothing else does."""
        known = self._reached(curves) or self._drowning(curves) or self._out_of_reach(curves)
        return bool(known) and not self.unless.holds(curves)

    def judge(self, curves: Curves) -> Iterator[Finding]:
        """One finding for the lowest ceiling that is reached."""
        if not self.holds(curves):
            return
        reached = self._reached(curves)
        found = reached or self._drowning(curves)
        beyond = self._out_of_reach(curves)
        if not found and beyond is not None:
            yield self._beyond(curves, beyond)
            return
        worst = min(found, key=lambda each: each.accuracy or 0.0)
        told = _told(worst, curves.heads[worst.head], bool(reached), curves.end)
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"`{worst.head}` of {curves.suite} {told}.",
            fix=FIXES[worst.name],
            site=worst.site or "<data>",
            source=worst.source,
            samples=worst.samples or None,
            evidence=tuple(
                Evidence(
                    f"`{each.head}` right",
                    curves.heads[each.head].last,
                    each.accuracy,
                    "of what is counted",
                    curves.heads[each.head].steps[-1],
                )
                for each in found
            ),
        )

    def _out_of_reach(self, curves: Curves) -> Reach | None:
        """What labels that no output can be leave of the loss, where it has come down to that."""
        found = None if curves.look is None else curves.look.trials.reach
        if found is None or not found.loss > 0 or not found.loss < curves.unread:
            return None
        near = curves.end - found.loss <= self.close * (curves.unread - found.loss)
        return found if near and found.loss >= self.most * curves.end else None

    def _beyond(self, curves: Curves, found: Reach) -> Finding:
        told = f"; right are {curves.told}" if curves.heads else ""
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"the loss of {curves.suite} is at its ceiling: {found.beyond} of "
            f"{found.count} labels lie beyond what {words(found.op, found.scaled)} gives, "
            f"{found.gives}, and leave {found.loss:.4g} of the loss to any model; it is "
            f"{curves.end:.4g}{told}.",
            fix=fix(found.op, found.scaled),
            site="<loss>",
            op=found.op,
            source=found.scaled or found.source,
            evidence=(Evidence("loss at the end", curves.end, found.loss, anchor=curves.name),),
        )

    def _drowning(self, curves: Curves) -> list[Ceiling]:
        """The ceilings whose labels make nearly all of the loss that is left."""
        return [
            each
            for each in curves.ceilings
            if each.name == UNREACHABLE
            and each.exact
            and each.head in curves.heads
            and each.loss is not None
            and each.loss >= self.drowns * curves.end > 0
        ]

    def _reached(self, curves: Curves) -> list[Ceiling]:
        """The ceilings that are reached; none where another accuracy is below its own."""
        known = {
            each.head: each
            for each in curves.ceilings
            if each.name in FIXES and each.accuracy is not None and each.head in curves.heads
        }
        known = {**_untaught(curves), **known}
        found = []
        for name, head in curves.heads.items():
            most = known[name].accuracy if name in known else 1.0
            if head.hits[-1] < (most or 0.0) * head.counts[-1] - self.near:
                return []
            if name in known:
                found.append(known[name])
        return found


def _untaught(curves: Curves) -> dict[str, Ceiling]:
    """Head to its ceiling, where it counts more labels than the loss scores and has right."""
    wrong = curves.look.miscounted if curves.look is not None and curves.gone else ()
    return {
        each.head: Ceiling(
            UNTAUGHT,
            each.head,
            each.scored / each.count,
            count=int(each.count - each.scored),
            site="<loss>",
            source=each.source,
        )
        for each in wrong
        if each.scored < each.count and each.head in curves.heads
    }


def _told(worst: Ceiling, head: Accuracy, reached: bool, loss: float) -> str:
    if reached:
        most = "the loss teaches no more" if worst.name == UNTAUGHT else "no model can be better"
        return (
            f"is at its ceiling: {head} are right, and {most}, for {worst.count} are {worst.name}"
        )
    return (
        f"cannot be perfect: {worst.count} of {head.counts[-1]:.10g} are {worst.name}, and make "
        f"{worst.loss:.4g} of a loss of {loss:.4g}, which drowns what there is to learn of the "
        f"others; {head} are right"
    )
