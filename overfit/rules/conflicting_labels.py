"""FIT015: the same input with different labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from overfit.ceilings import CONFLICT, Ceiling
from overfit.curves import Curves
from overfit.rules.lacking import lacks_course
from overfit.rules.memorised import Memorised
from overfit.rules.signal_cut import SignalCut
from probes.finding import Evidence, Finding, Verdict


@dataclass(frozen=True, slots=True)
class ConflictingLabels:
    """Samples are equal in all that the model reads, and their labels differ.

    Either the inputs are, or the scores are the same to the bit under whatever weights: then the
    model drops what tells them apart.

    No model can give both answers, so their share is lost whatever is trained. It leads where the
    samples are memorised as far as that allows: an accuracy within `near` labels of the most that
    can be right, or a loss with at most `left` of what there is to learn above the least. Else it
    is a warning beside what keeps the model from coming that far, as it is where features that
    nobody reads tell these samples apart, and what should read them gets no gradient.

    Sick: the same picture stands in the data twice, once as a 3 and once as an 8.
    Healthy: the same data, each picture with one label.
    """

    near: float = 1.0
    left: float = 0.05

    family: ClassVar[Literal["verdict"]] = "verdict"
    code: ClassVar[str] = "FIT015"
    rule: ClassVar[str] = "conflicting-labels"
    unless: ClassVar[Memorised] = Memorised()
    cut: ClassVar[SignalCut] = SignalCut()

    def lacks(self, curves: Curves) -> str | None:
        """A course, and labels beside the inputs."""
        if (why := lacks_course(curves)) is not None:
            return why
        return curves.unjudged[0] if curves.unjudged and not curves.floors else None

    def judge(self, curves: Curves) -> Iterator[Finding]:
        """One finding where labels contradict each other."""
        found = [each for each in curves.ceilings if each.name == CONFLICT]
        if not found or self.unless.holds(curves):
            return
        worst = min(found, key=lambda each: each.accuracy if each.accuracy is not None else 1.0)
        reached = all(self._reached(curves, each) for each in found) and self._rest(curves, found)
        if any(each.unread for each in found) and self.cut.holds(curves):
            reached = False
        best = (
            "the least loss" if worst.accuracy is None else f"the most that `{worst.head}` can be"
        )
        value = worst.loss if worst.accuracy is None else worst.accuracy
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL if reached else Verdict.WARN,
            message=_how(curves, worst)
            + f", so {best} is {value:.4g}"
            + (f", and that is reached: {_now(curves, worst)}." if reached else "."),
            fix="Let the model read what tells these samples apart: look for a cut, a window, a "
            "column or a position that is left out."
            if worst.alike or worst.unread
            else "Look at these samples: give each input one label, or the model what tells them "
            "apart.",
            site=worst.site or "model" if worst.alike or worst.unread else "<data>",
            phase="forward" if worst.alike or worst.unread else "data",
            source=worst.source,
            op=worst.op,
            samples=worst.samples,
            evidence=tuple(_evidence(curves, found)),
        )

    def _reached(self, curves: Curves, ceiling: Ceiling) -> bool:
        head = curves.heads.get(ceiling.head)
        if head is not None and ceiling.accuracy is not None:
            return head.hits[-1] >= ceiling.accuracy * head.counts[-1] - self.near
        if not ceiling.exact or ceiling.loss is None:
            return False
        return curves.end - ceiling.loss <= self.left * (curves.unread - ceiling.loss)

    def _rest(self, curves: Curves, found: list[Ceiling]) -> bool:
        """Whether the heads without a conflict are perfect, or count what hangs on one."""
        own = {each.head for each in found}
        return not own & curves.heads.keys() or all(
            head.hits[-1] >= head.counts[-1] or not any(f.head == name for f in curves.floors)
            for name, head in curves.heads.items()
            if name not in own
        )


def _some(names: list[str]) -> str:
    shown = " and ".join(names[:2]) if len(names) < 3 else ", ".join(names[:3])
    return (shown or "samples") + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _how(curves: Curves, ceiling: Ceiling) -> str:
    who = _some([curves.samples[i] for i in ceiling.samples if i < len(curves.samples)])
    if ceiling.unread:
        keys = " and ".join(f"`{each}`" for each in ceiling.unread)
        return (
            f"the model does not read {keys}, which tells samples apart: {who} of {curves.suite} "
            "look the same to it without, and have different labels"
        )
    if not ceiling.alike:
        return (
            f"the labels of {curves.suite} contradict each other: {who} give the model the same "
            "input and have different labels"
        )
    line = f" at {ceiling.source}" if ceiling.source else ""
    what = f"`{ceiling.op}`" if ceiling.op else "it"
    return (
        f"the model does not read what tells samples apart: {who} of {curves.suite} look the same "
        f"to it{line and f', from what {what} drops{line} on'}, and have different labels"
    )


def _now(curves: Curves, ceiling: Ceiling) -> str:
    head = curves.heads.get(ceiling.head)
    return f"the loss is {curves.end:.4g}" if head is None else f"right are {head}"


def _evidence(curves: Curves, found: list[Ceiling]) -> Iterator[Evidence]:
    for each in found:
        head = curves.heads.get(each.head)
        if each.accuracy is not None and head is not None:
            yield Evidence(f"`{each.head}` right", head.last, each.accuracy, "of what is counted")
        elif each.loss is not None:
            yield Evidence("loss at the end", curves.end, each.loss)
        yield Evidence("labels that contradict another", each.count, 0)
