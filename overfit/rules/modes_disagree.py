"""FIT014: memorised in training, and not in evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from overfit.curves import Curves
from overfit.rules.lacking import lacks_look
from overfit.rules.memorised import Memorised
from probes.finding import Evidence, Finding, Verdict, out_of

SCORED = ("IDX002", "IDX005", "IDX010", "LBL001", "LBL002", "LBL010", "LBL011")
"""The checks that say that an output is scored against another's label."""

NOTED = Verdict.NOTE.rank


@dataclass(frozen=True, slots=True)
class ModesDisagree:
    """The same weights know the samples in training, and not in evaluation.

    Told where the accuracies of one mode are above those of the other by `gap` of what is counted
    and nearly perfect in training (`known`), or where the loss of evaluation mode is `times` that
    of training mode and that one is memorised (`left` of what there was to learn), and nothing is
    counted, or not all right: what counts may set the mode itself. BatchNorm evaluates with
    running statistics that must have followed: a small momentum, a few steps, or statistics of
    other data leave them behind.

    It is told, too, where next to nothing is left of the loss and what is counted stays wrong in
    either mode, if the loss gives a module other numbers than the accuracies do (augmentation or
    scaling that only one of them has), or if fewer are right than before the first step, by
    `gained` of what is counted: then the loss rewards what is counted as wrong. So it does where
    it fell, nothing is right, and steps that make it larger memorise the samples: that was tried.
    And it is told where next to nothing is left of the loss, what is counted stays wrong, and a
    check found that the loss scores outputs against labels of other places or samples.

    Sick: `nn.BatchNorm1d(64, momentum=1e-4)`.
    Healthy: `nn.BatchNorm1d(64)`.
    """

    gap: float = 0.1
    known: float = 0.95
    times: float = 3.0
    left: float = 0.1
    gained: float = 0.25

    family: ClassVar[Literal["verdict"]] = "verdict"
    code: ClassVar[str] = "FIT014"
    rule: ClassVar[str] = "modes-disagree"
    cures: ClassVar[tuple[str, ...]] = ("dropout off",)
    unless: ClassVar[Memorised] = Memorised()

    def lacks(self, curves: Curves) -> str | None:
        """A look in both modes."""
        return lacks_look(curves)

    def holds(self, curves: Curves) -> bool:
        """Whether what training knows is lost in evaluation."""
        if curves.look is None or self.unless.holds(curves):
            return False
        return (
            self._by_mode(curves)
            or self._counts_other(curves)
            or self._scores_other(curves) is not None
            or self._counts_against(curves)
        )

    def _by_mode(self, curves: Curves) -> bool:
        """Whether the mode alone makes the difference."""
        look = curves.look
        assert look is not None
        if curves.heads and look.counts:
            pairs = [
                (look.hits[name] / look.counts[name], head.last)
                for name, head in curves.heads.items()
                if look.counts.get(name)
            ]
            nearly = all(trained >= self.known for trained, _ in pairs)
            if bool(pairs) and nearly and any(t - e >= self.gap for t, e in pairs):
                return True
            if all(evaluated >= self.known for _, evaluated in pairs):
                return False
        if look.trained is None or look.evaluated is None or not curves.unread > curves.least:
            return False
        room = curves.unread - curves.least
        low = look.trained - curves.least <= self.left * room
        apart = look.evaluated - curves.least >= self.times * (look.trained - curves.least)
        return low and apart and look.evaluated - curves.least > self.left * room

    def _counts_other(self, curves: Curves) -> bool:
        """Whether the loss is learned, and evaluation runs the model on other numbers."""
        look = curves.look
        return look is not None and look.parting is not None and self._unrewarded(curves)

    def _scores_other(self, curves: Curves) -> Finding | None:
        """The check that says that the loss learned is one of other labels, with its line first."""
        if not self._unrewarded(curves):
            return None
        able = [
            each
            for each in curves.watched
            if each.code in SCORED and each.site == "<loss>" and each.verdict.rank > NOTED
        ]
        return min(able, key=lambda each: each.source is None, default=None)

    def _counts_against(self, curves: Curves) -> bool:
        """Whether the loss is learned, and less is right for it."""
        if curves.look is not None and curves.look.climbed is not None:
            return True
        worse = any(head.first - head.last >= self.gained for head in curves.heads.values())
        return worse and self._unrewarded(curves)

    def _unrewarded(self, curves: Curves) -> bool:
        """Whether nothing is left of the loss, and not all of what is counted is right."""
        wrong = any(head.last < self.known for head in curves.heads.values())
        return wrong and not curves.derived and curves.gone

    def judge(self, curves: Curves) -> Iterator[Finding]:
        """One finding where training and evaluation disagree."""
        if not self.holds(curves):
            return
        if self._by_mode(curves):
            yield self._of_modes(curves)
        elif self._counts_other(curves):
            yield self._of_inputs(curves)
        elif (why := self._scores_other(curves)) is not None:
            yield self._of_labels(curves, why)
        else:
            yield self._of_reward(curves)

    def _of_inputs(self, curves: Curves) -> Finding:
        look = curves.look
        assert look is not None
        assert look.parting is not None
        parting = look.parting
        line = f" at {parting.source}" if parting.source else ""
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=(
                f"training and evaluation disagree on {curves.suite}: {_learned(curves)}; the loss "
                f"gives `{parting.site}`{line} other numbers than what is counted does, which "
                f"differ by {parting.apart:.2g} of their size: it is learned on one and evaluated "
                "on the other."
            ),
            fix="Prepare the inputs in the same way for the loss and for what is counted: look for "
            "a scaling, an inversion or a channel order that only one of them has.",
            site="<loss>" if parting.whole else parting.site,
            phase="forward",
            step=curves.steps[-1],
            source=parting.source,
            evidence=(
                Evidence("loss at the end", curves.end, curves.start, anchor=curves.name),
                Evidence(f"inputs of `{parting.site}` apart, of their size", parting.apart),
                *_counted(curves),
            ),
        )

    def _of_labels(self, curves: Curves, why: Finding) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=(
                f"training and evaluation disagree on {curves.suite}: {_learned(curves)}, since "
                f"the loss learns to give labels elsewhere than they are counted ({why.code}): "
                f"{why.message}"
            ),
            fix=why.fix,
            site=why.site,
            op=why.op,
            phase="forward",
            step=curves.steps[-1],
            source=why.source,
            where=why.where,
            evidence=(
                Evidence("loss at the end", curves.end, curves.start, anchor=curves.name),
                *_counted(curves),
                Evidence("found by", why.code),
            ),
        )

    def _of_reward(self, curves: Curves) -> Finding:
        steps = curves.look.climbed if curves.look is not None else None
        began = ", ".join(
            f"`{name}` {out_of(head.hits[0], head.counts[0])}"
            for name, head in curves.heads.items()
        )
        why = f"where {began} were right before the first step"
        if steps is not None:
            why = f"and with the loss turned round all of it is right within {steps} steps"
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=(
                f"training and evaluation disagree on {curves.suite}: {_learned(curves)}, {why}: "
                "the loss rewards what is counted as wrong."
            ),
            fix="Look at the loss for two arguments in each other's place (positive and negative, "
            "input and target), a sign, or labels that are the other way round in what is counted.",
            site="<loss>",
            phase="forward",
            step=curves.steps[-1],
            confirmed=None if steps is None else True,
            evidence=(
                Evidence("loss at the end", curves.end, curves.start, anchor=curves.name),
                *_counted(curves),
            ),
        )

    def _of_modes(self, curves: Curves) -> Finding:
        look = curves.look
        assert look is not None
        right = ", ".join(f"`{n}` {out_of(look.hits[n], look.counts[n])}" for n in look.hits)
        if not right or right == curves.told:  # what counts sets the mode itself
            trained, told = f"a loss of {look.trained:.4g}", f"one of {look.evaluated:.4g}"
        else:
            trained, told = right, curves.told
        where, place = "", look.mode_site
        if place is not None:
            where = f"; the mode of `{place.site}` alone makes most of it"
            where += f", from {place.source} on" if place.source else ""
        return Finding(
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
            site=None if place is None else place.site,
            phase="forward",
            step=curves.steps[-1],
            source=None if place is None else place.source,
            evidence=(
                Evidence("loss in training mode", look.trained),
                Evidence("loss in evaluation mode", look.evaluated, look.trained),
            ),
        )


def _learned(curves: Curves) -> str:
    return f"the loss went from {curves.start:.4g} to {curves.end:.4g}, and right are {curves.told}"


def _counted(curves: Curves) -> Iterator[Evidence]:
    for name, head in curves.heads.items():
        yield Evidence(f"`{name}` right", head.told, step=head.steps[-1])
