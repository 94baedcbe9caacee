"""FIT008: one head learns, another does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from overfit.blind_heads import BlindHead
from overfit.curves import Curves
from overfit.floors import Floor
from overfit.rules.lacking import lacks_look
from overfit.rules.memorised import Memorised
from overfit.starved import LITTLE, Weighed, starved
from probes.finding import Evidence, Finding, Phase, Verdict

SILENT = (
    "Look there for a clamp, a ReLU, a rounding or a comparison outside of whose range the targets "
    "or the outputs lie."
)
PLACES = ("WIR002", "GRD004", "GRD003")


@dataclass(frozen=True, slots=True)
class _Why:
    """What is known of a head's signal: a part of a sentence, the module, the line, what to do."""

    words: str
    site: str | None = None
    source: str | None = None
    fix: str | None = None
    evidence: tuple[Evidence, ...] = ()
    phase: Phase = "backward"


@dataclass(frozen=True, slots=True)
class HeadStuck:
    """One head has learned its samples, and another has gained next to nothing.

    A head has learned that has `learned` of its labels right, or whose part of the loss fell to
    `low` of its start; one is stuck that gained at most `gain` of what it lacked, or whose part
    fell by at most `gain`, without being complete. Where the parts of the loss are given, so is
    the gradient that each gives to each module, and the weight that it has in the whole loss; so
    it is of the terms that the loss is seen to be the sum of. A part that reads no label, as a KL
    against a prior, learns nothing that it could be stuck at. Where all that is counted is right, a
    part is stuck that scores labels, stands above zero and gives no parameter a gradient. A head
    that gives the same whichever sample's input it is given, before training and after it, is told
    with where its input is lost.

    Sick: `loss = key_loss`, where `db_loss` was to be added.
    Healthy: `loss = key_loss + db_loss`.
    """

    learned: float = 0.9
    low: float = 0.2
    gain: float = 0.25

    family: ClassVar[Literal["verdict"]] = "verdict"
    code: ClassVar[str] = "FIT008"
    rule: ClassVar[str] = "head-stuck"
    cures: ClassVar[tuple[str, ...]] = ()
    unless: ClassVar[Memorised] = Memorised()

    def lacks(self, curves: Curves) -> str | None:
        """Two heads or two parts of the loss."""
        if (why := lacks_look(curves)) is not None:
            return why
        if curves.silent:
            return None
        if len(curves.heads) < 2 and len(curves.parts) < 2 and not self.unless.holds(curves):
            return "there is only one head: give `Subject.metrics` or `Subject.parts` for each"
        return None

    def holds(self, curves: Curves) -> bool:
        """Whether one head is stuck while another has learned."""
        return bool(self.stuck(curves))

    def stuck(self, curves: Curves) -> list[str]:
        """The heads that are stuck while another has learned, the worst first."""
        if curves.look is None or self.unless.holds(curves):
            return []
        if curves.silent:
            return [each.name for each in curves.silent]
        heads = _own_heads(curves)
        good = [name for name, head in heads.items() if curves.heads[name].last >= self.learned]
        bad = [name for name, head in heads.items() if self._is_stuck(curves, name)]
        if good and bad:
            return sorted(bad, key=lambda name: curves.heads[name].last)
        fell = {
            name: (values[0] - values[-1]) / values[0]
            for name, values in curves.parts.items()
            if len(values) > 1 and values[0] > 0
        }
        if any(fall >= 1 - self.low for fall in fell.values()):
            return [n for n, fall in fell.items() if fall <= self.gain and n in curves.learning]
        return []

    def _is_stuck(self, curves: Curves, name: str) -> bool:
        head = curves.heads[name]
        lacked = 1 - head.first
        floor = _floor(curves, name)
        on_floor = (
            floor is not None and head.hits[-1] <= (floor.accuracy or 0) * head.counts[-1] + 0.5
        )
        return head.last < self.learned and (
            on_floor or head.last - head.first <= self.gain * lacked
        )

    def judge(self, curves: Curves) -> Iterator[Finding]:
        """One finding for the worst head."""
        for name in self.stuck(curves)[:1]:
            why = _why(curves, name)
            head, floor = curves.heads.get(name), _floor(curves, name)
            told = f": {head} right" if head else f": its loss is {_value(curves, name):.4g}"
            on = (
                f", no better than the floor `{floor.name}` ({floor.accuracy:.3g})" if floor else ""
            )
            others = {n: h for n, h in curves.heads.items() if n != name and h.last >= self.learned}
            beside = ", ".join(f"`{n}` {h}" for n, h in others.items()) or "another has learned"
            yield Finding(
                code=self.code,
                rule=self.rule,
                verdict=Verdict.FAIL,
                message=(
                    f"the head `{name}` is stuck on {curves.suite}{told}{on}, while {beside}; "
                    f"{why.words}."
                ),
                fix=why.fix
                or f"Follow `{name}` from its loss back: whether its part is in the loss, and at "
                "what weight, whether its labels are its own, and what its gradient reaches.",
                site=why.site or name,
                phase=why.phase,
                step=curves.steps[-1],
                source=why.source,
                evidence=(*why.evidence, *_evidence(curves)),
            )


def _value(curves: Curves, name: str) -> float:
    """Of a part, in evaluation mode; of a term that nobody named, in training mode."""
    if values := curves.parts.get(name):
        return values[-1]
    return next(each.value for each in curves.silent if each.name == name)


def _own_heads(curves: Curves) -> dict[str, None]:
    """The heads that count labels of their own, where that is known; else all of them."""
    known = {each.head for each in curves.floors} | curves.parts.keys()
    own = [name for name in curves.heads if name in known]
    return dict.fromkeys(own if len(own) > 1 else curves.heads)


def _floor(curves: Curves, name: str) -> Floor | None:
    """The head's highest floor that its accuracy does not pass."""
    head = curves.heads.get(name)
    if head is None:
        return None
    above = [
        each
        for each in curves.floors
        if each.head == name
        and each.accuracy is not None
        and head.hits[-1] <= each.accuracy * head.counts[-1] + 0.5
    ]
    return min(above, key=lambda each: each.accuracy or 0.0, default=None)


def _why(curves: Curves, name: str) -> _Why:
    """What is known of the head's signal."""
    look = curves.look
    assert look is not None
    if (silent := next((each for each in curves.silent if each.name == name), None)) is not None:
        return _Why(silent.words, source=silent.source, fix=SILENT)
    if (blind := next((each for each in look.trials.blind if each.head == name), None)) is not None:
        return _of_blind(blind)
    part = look.parts.get(name, {})
    if part and not any(part.values()):
        return _Why("its part of the loss gives no module a gradient")
    own = starved(curves, name)
    if own is not None and own.weight == 0:
        what = "the whole loss" if own.part == name else f"of `{own.part}`, the whole loss"
        return _Why(f"{what} gives `{own.site}`, which it alone trains, no gradient", own.site)
    if own is not None and own.is_little:
        return _of_weight(curves, name, own)
    for cut in look.cuts:
        line = f" at {cut.source}" if cut.source else ""
        return _Why(
            f"no gradient reaches `{cut.parameters[0]}`: the way back is cut by `{cut.op}`{line}",
            cut.parameters[0].rpartition(".")[0],
            cut.source,
        )
    for code in PLACES:
        for each in curves.watched:
            if each.code == code:
                return _Why(each.message.rstrip("."), each.site, each.source)
    return _Why("its gradient is not cut off: look at its labels, and at what it reads")


def _of_blind(blind: BlindHead) -> _Why:
    """A head that is the same whichever sample it is given."""
    line = f" at {blind.source}" if blind.source else ""
    module = f" in `{blind.site}`" if blind.site else ""
    return _Why(
        f"it does not read the input, which is lost on the way to it at `{blind.op}`{module}"
        f"{line}: what that gives is the same for every sample",
        blind.site or "model",
        blind.source,
        fix=f"Give `{blind.head}` what follows the input in place of what that line gives.",
        phase="forward",
    )


def _of_weight(curves: Curves, name: str, own: Weighed) -> _Why:
    """A part that weighs little, and what that does to its steps."""
    what = "it" if own.part == name else f"the part `{own.part}`, which is not learned either,"
    steps = ""
    if curves.drive is not None and curves.drive.proportional:
        steps = (
            f": steps are as large as the gradient, so that it would need {1 / own.weight:.2g} "
            "times as many as at a weight of one"
        )
    return _Why(
        f"{what} weighs {own.weight:.2g} in the whole loss, by its gradient at `{own.site}`{steps}",
        own.site,
        fix=f"Give `{own.part}` {1 / own.weight:.2g} times its weight in the loss, or `{own.site}` "
        "a learning rate of its own.",
        evidence=(Evidence(f"weight of `{own.part}` in the whole loss", own.weight, LITTLE),),
    )


def _evidence(curves: Curves) -> Iterator[Evidence]:
    for each, head in curves.heads.items():
        yield Evidence(f"`{each}` gained", head.last - head.first, 1 - head.first)
    for each, values in curves.parts.items():
        if len(values) > 1:
            yield Evidence(f"part `{each}` of the loss at the end", values[-1], values[0])
