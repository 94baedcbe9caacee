"""FIT016: what unlocks a suite that was not memorised."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from overfit.curves import Curves
from overfit.interventions import UNCHANGED
from overfit.rules.lacking import lacks_course
from overfit.rules.memorised import Memorised
from probes.finding import Evidence, Finding, Verdict


@dataclass(frozen=True, slots=True)
class Unlocked:
    """With one thing changed, or a few together, the same samples are memorised.

    `--why` trains the smallest suite that was not memorised again, each time with one thing
    changed and from the same weights, and once unchanged from other weights, as the control. What
    unlocks it is confirmed where the control is not memorised. Where nothing does, a note says
    what came nearest.

    Sick: `Adam(model.parameters(), lr=1e-6)`; `learning rate x 100` unlocks it.
    Healthy: the same with lr=1e-3.
    """

    family: ClassVar[Literal["verdict"]] = "verdict"
    code: ClassVar[str] = "FIT016"
    rule: ClassVar[str] = "unlocked"
    unless: ClassVar[Memorised] = Memorised()

    def lacks(self, curves: Curves) -> str | None:
        """Interventions, where it was not memorised."""
        if (why := lacks_course(curves)) is not None and curves.ended != "died":
            return why
        if not curves.tries and not self.unless.holds(curves):
            return (
                curves.untried or "no intervention was tried on this suite: ask for it by `--why`"
            )
        return None

    def judge(self, curves: Curves) -> Iterator[Finding]:
        """One finding for what unlocks it, or for what came nearest."""
        tries = {name: each for name, each in curves.tries.items() if name != (UNCHANGED,)}
        ended = {name: each for name, each in tries.items() if each.losses and each.ended}
        if self.unless.holds(curves) or not ended:
            return
        cured = [name for name, each in ended.items() if self.unless.holds(each)]
        control = curves.control
        if not cured:
            yield self._nearest(curves, ended)
            return
        best = min(cured, key=lambda name: (len(name), len(ended[name].losses)))
        steps, plain = len(ended[best].losses), control is not None and self.unless.holds(control)
        beside = [" and ".join(f"`{each}`" for each in name) for name in cured if name != best]
        also = f"; so {'does' if len(beside) == 1 else 'do'} {', '.join(beside)}" if beside else ""
        unchanged = (
            "no control ran"
            if control is None
            else (
                "so does the control, with nothing but its initial weights changed"
                if plain
                else "the control, with nothing but its initial weights changed, does not"
            )
        )
        named = " and ".join(f"`{each}`" for each in best)
        unlocks = "unlocks" if len(best) == 1 else "together unlock"
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=(
                f"{named} {unlocks} {curves.suite}: memorised within {steps} steps{also}; "
                f"{unchanged}."
            ),
            fix=f"Look what {named} {'takes' if len(best) == 1 else 'take'} out of the way.",
            site="<optimizer>" if "learning rate" in best[0] else None,
            step=steps,
            confirmed=None if control is None else not plain,
            evidence=tuple(_evidence(curves)),
        )

    def _nearest(self, curves: Curves, ended: dict[tuple[str, ...], Curves]) -> Finding:
        best = max(ended, key=lambda name: (_worst(ended[name]), -ended[name].end))
        each = ended[best]
        came = each.told or f"a loss of {each.end:.4g}"
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.NOTE,
            message=(
                f"none of {len(ended)} interventions unlocks {curves.suite}; nearest came "
                f"{' and '.join(f'`{name}`' for name in best)} with {came}."
            ),
            fix="Nothing that was tried is the cause; the other findings say where to look.",
            evidence=tuple(_evidence(curves)),
        )


def _worst(curves: Curves) -> float:
    return min((head.last for head in curves.heads.values()), default=0.0)


def _evidence(curves: Curves) -> Iterator[Evidence]:
    for name, each in curves.tries.items():
        if each.ended == "died":
            said = f"could not be tried: {each.said}"
        elif not each.losses:
            said = "no step was done"
        else:
            known = Memorised().holds(each)
            came = each.told or f"loss {each.end:.4g}"
            said = f"memorised within {len(each.losses)} steps" if known else came
        yield Evidence(" and ".join(name), said)
