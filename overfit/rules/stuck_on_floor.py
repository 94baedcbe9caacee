"""FIT007: what is reached can be had without reading the input."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from overfit.curves import Curves
from overfit.floors import BLIND, MEAN, PRIOR, Floor
from overfit.rules.lacking import lacks_look
from overfit.rules.larger_not_memorised import LargerNotMemorised
from overfit.rules.memorised import Memorised
from overfit.rules.only_noise import OnlyNoise
from overfit.rules.too_slow import TooSlow
from overfit.trend import trend
from probes.finding import Evidence, Finding, Verdict
from probes.reading.lost import PICKS

LAST = "previous gold token"
ONE_TOKEN = (
    "Look what keeps a place from those before it: an attention over another axis than "
    "theirs, a mask that hides them, a state that is not handed on; more steps will not mend it."
)
PICKED = (
    "Look what is to carry the input to that part (an attention's mask, a state that is not handed "
    "on), or pick another."
)


@dataclass(frozen=True, slots=True)
class StuckOnFloor:
    """Training ended on a floor, or under one: the model is blind, or might as well be.

    It is blind where its loss stays the same, but for `same` of itself, when the inputs are
    exchanged between the samples (told of weights that moved by `moved` of their size at
    least). It might as well be where the loss lies within `near` of what the labels'
    frequencies, the mean target or the same model trained on shuffled inputs give, or no
    accuracy is better than the most frequent label, and the loss has stopped falling (by
    `falling` from one quarter to the next, after the weights went `learned` of their size). An
    accuracy of a sequence that has stopped below what its own previous label gives is told of
    too, and so is one that stopped at that, loss and accuracy both, as does what reads nothing
    before the last token. Where fewer of these samples are memorised, and no floor does that,
    the input is read: then it is no floor of the labels. It is read as well where one of
    several accuracies is perfect, which its own floor is not, and where the same training
    without its noise memorises the samples. Where the untrained model followed the input by
    `seen` or more, it was training that lost it, and the place where it is lost now is no cause.

    Sick: `model(batch["x"] * 0)`, or the first token in place of the last.
    Healthy: `model(batch["x"])`.
    """

    same: float = 1e-4
    moved: float = 1e-4
    learned: float = 0.05
    near: float = 0.05
    shrunk: float = 0.5
    falling: float = 0.02
    seen: float = 1e-6

    family: ClassVar[Literal["verdict"]] = "verdict"
    code: ClassVar[str] = "FIT007"
    rule: ClassVar[str] = "stuck-on-floor"
    unless: ClassVar[Memorised] = Memorised()
    slow: ClassVar[TooSlow] = TooSlow()
    noise: ClassVar[OnlyNoise] = OnlyNoise()
    fewer: ClassVar[LargerNotMemorised] = LargerNotMemorised()

    def lacks(self, curves: Curves) -> str | None:
        """A look at the model, and inputs to exchange or floors."""
        if (why := lacks_look(curves)) is not None:
            return why
        look = curves.look
        if look is not None and look.reading is None and not curves.floors:
            return curves.unjudged[0] if curves.unjudged else "there are no inputs to exchange"
        return None

    def blind(self, curves: Curves) -> bool:
        """Whether exchanging the inputs changes nothing, of a model that has learned.

        A loss of which nothing is left may be at its end for any input, as a hinge is.
        """
        look = curves.look
        if look is None or look.reading is None or curves.gone:
            return False
        return look.reading <= self.same and (look.moved is None or look.moved >= self.moved)

    def holds(self, curves: Curves) -> bool:
        """Whether it is stuck on a floor."""
        if curves.look is None or self.unless.holds(curves):
            return False
        if curves.look.climbed is not None:  # what it ends on is the end of another way
            return False
        return self.blind(curves) or self.floor(curves) is not None

    def floor(self, curves: Curves) -> Floor | None:
        """The floor that it ended on, or the lowest that it ended under."""
        course, look = trend(curves.losses, curves.passes), curves.look
        if course is None or course.falls > self.falling or self.slow.holds(curves):
            return None
        if look is not None and look.moved is not None and look.moved < self.learned:
            return None
        if _reads(curves) or self.noise.cured(curves) is not None:
            return None
        last = self.on_last(curves)
        found = self._by_loss(curves) or last or self._by_accuracy(curves)
        of_labels = found is not None and (found is last or found.name in (PRIOR, MEAN))
        return None if of_labels and self.fewer.read(curves) else found

    def _by_loss(self, curves: Curves) -> Floor | None:
        known = [
            each
            for each in curves.floors
            if each.loss is not None and (each.exact or each.name == BLIND) and each.loss > 0
        ]
        room = curves.least
        hit = [
            each
            for each in known
            if abs(curves.end - (each.loss or 0.0)) <= self.near * ((each.loss or 0.0) - room)
        ]
        return min(hit, key=lambda each: each.name != PRIOR, default=None)

    def _by_accuracy(self, curves: Curves) -> Floor | None:
        """The prior, where no head beats it; else a prefix floor that a head has not come to."""
        heads = {n: h for n, h in curves.heads.items() if any(f.head == n for f in curves.floors)}
        if not heads or any(head.last >= 1 for head in heads.values()):
            return None
        priors = {f.head: f for f in curves.floors if f.name == PRIOR and f.accuracy is not None}
        if heads.keys() <= priors.keys() and all(
            head.hits[-1] <= (priors[name].accuracy or 0.0) * head.counts[-1] + 0.5
            for name, head in heads.items()
        ):
            return priors[next(iter(heads))]
        under = [
            each
            for each in curves.floors
            if each.name.startswith("previous ")
            and "one class" not in each.name
            and each.head in heads
            and heads[each.head].hits[-1] < (each.accuracy or 0.0) * heads[each.head].counts[-1] - 1
        ]
        first = [each for each in under if each.name == LAST]
        return min(first, key=lambda each: each.accuracy or 0.0, default=None)

    def on_last(self, curves: Curves) -> Floor | None:
        """What the token before gives, where the only head and the whole loss are both at it."""
        whole = {each.head for each in curves.floors if each.name == PRIOR and each.exact}
        if len(curves.heads) != 1:
            return None
        for each in curves.floors:
            if each.name != LAST or each.head not in curves.heads.keys() & whole:
                continue
            loss, right = (each.loss or 0.0), (each.accuracy or 0.0)
            met = abs(curves.end - loss) <= self.near * (loss - curves.least)
            last = curves.heads[each.head].last
            if met and right > 0 and abs(last - right) <= self.near * right:
                return each
        return None

    def judge(self, curves: Curves) -> Iterator[Finding]:
        """One finding where it is stuck on a floor."""
        if not self.holds(curves):
            return
        floor, look = self.floor(curves), curves.look
        assert look is not None
        lost = look.lost if self.blind(curves) and not self._unlearned(curves) else None
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=self._message(curves, floor),
            fix=self._fix(curves, floor, lost is not None),
            site=(lost.site or "model") if lost else "<data>" if self.blind(curves) else None,
            op=lost.op if lost else None,
            phase="forward",
            step=curves.steps[-1],
            source=lost.source if lost else None,
            evidence=tuple(self._evidence(curves)),
        )

    def _fix(self, curves: Curves, floor: Floor | None, lost: bool) -> str:
        blind = self.blind(curves)
        if floor is not None and floor is self.on_last(curves) and not blind:
            return ONE_TOKEN
        if lost and curves.look is not None and curves.look.lost is not None:
            picked = curves.look.lost.op in PICKS
            return PICKED if picked else "Mend that line: what it gives must follow its input."
        return _fix(blind, self._unlearned(curves))

    def _unlearned(self, curves: Curves) -> bool:
        """Whether the untrained model followed the input."""
        began = None if curves.look is None else curves.look.began_reading
        return began is not None and began >= self.seen

    def _message(self, curves: Curves, floor: Floor | None) -> str:
        look = curves.look
        assert look is not None
        name = f"`{floor.name}`" if floor else "what needs no input"
        where = f"the model trained on {curves.suite}"
        told = _reached(curves, floor)
        if not self.blind(curves):
            how = "on" if floor is not None and not _under(curves, floor) else "under"
            if floor is not None and floor is self.on_last(curves):
                told += " to what goes by the label before and by nothing else"
                return f"{where} is stuck on the floor {name}: {told}."
            return f"{where} is stuck {how} the floor {name}: {told} without reading the input."
        place = ""
        if look.lost is not None and not self._unlearned(curves):
            line = f" at {look.lost.source}" if look.lost.source else ""
            module = f" in `{look.lost.site}`" if look.lost.site else ""
            place = f": the signal is lost at `{look.lost.op}`{module}{line}, whose output is the "
            place += "same for every input"
            if look.lost.op in PICKS:
                place = f": what `{look.lost.op}` picks{module}{line} is the same for every input, "
                place += "so that nothing carries the signal to the part that is picked"
        if look.size is not None and look.size < self.shrunk:
            place += f"; the weights shrank to {look.size:.2g} of their size, as decay makes them"
        began = look.began_reading if self._unlearned(curves) else None
        before = "" if began is None else f", and by {began:.2g} at the start"
        return (
            f"{where} is blind, and stuck on the floor {name}{place}; exchanging the inputs "
            f"between the samples moves the loss by {look.reading:.2g} of itself{before}; {told}."
        )

    def _evidence(self, curves: Curves) -> Iterator[Evidence]:
        look = curves.look
        assert look is not None
        yield Evidence("loss moved by exchanging the inputs, of itself", look.reading, self.same)
        yield Evidence("loss at the end", curves.end, anchor=curves.name)
        if look.rests is not None:
            yield from look.rests.evidence(curves.name)
        for each in curves.floors:
            head = curves.heads.get(each.head)
            if each.name in (PRIOR, MEAN, BLIND, LAST):
                if each.accuracy is not None and head is not None:
                    what = f"`{each.head}` right, beside the floor `{each.name}`"
                    yield Evidence(what, head.last, each.accuracy)
                elif each.loss is not None and each.exact:
                    yield Evidence(f"loss, beside the floor `{each.name}`", curves.end, each.loss)


def _reads(curves: Curves) -> bool:
    """Whether an accuracy is perfect that cannot be so without the input; then a head is stuck."""
    priors = {f.head: f.accuracy for f in curves.floors if f.name == PRIOR}
    return any(
        head.hits[-1] >= head.counts[-1] and (priors.get(name) or 1.0) < 1
        for name, head in curves.heads.items()
    )


def _under(curves: Curves, floor: Floor) -> bool:
    head = curves.heads.get(floor.head)
    if head is None or floor.accuracy is None:
        return False
    return head.hits[-1] < floor.accuracy * head.counts[-1] - 0.5


def _reached(curves: Curves, floor: Floor | None) -> str:
    """What was reached, and what the floor gives."""
    parts = [f"right are {curves.told}"] if curves.heads else []
    parts.append(f"the loss is {curves.end:.4g}")
    if floor is not None:
        gives = [f"{floor.accuracy:.3g} right"] if floor.accuracy is not None else []
        gives += [f"a loss of {floor.loss:.4g}"] if floor.loss is not None else []
        if gives:
            parts.append(f"and the floor gives {' and '.join(gives)}")
    return ", ".join(parts)


def _fix(blind: bool, unlearned: bool) -> str:
    if blind and unlearned:
        return (
            "Look why nothing of the input is learned: whether a gradient reaches what should read "
            "it, and whether the step is too large."
        )
    if blind:
        return "Look what hides the samples from the model: a mask, an index, a constant in place."
    return (
        "Look whether inputs and labels belong together, and what of the input comes through: "
        "a mask, an index, a shuffled order; more steps will not mend it."
    )
