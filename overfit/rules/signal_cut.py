"""FIT012: the signal is cut on its way back, or dies there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from overfit.curves import Curves
from overfit.cuts import Cut
from overfit.emptied import Emptied
from overfit.interventions import THAWED
from overfit.rules.diverged import Diverged
from overfit.rules.lacking import lacks_look
from overfit.rules.memorised import Memorised
from probes.finding import Evidence, Finding, Verdict

ZERO = "GRD003"
SIGNS = ("WIR002", "GRD004", "GRD003", "GRD007", "GRD008", "GRD005")


@dataclass(frozen=True, slots=True)
class SignalCut:
    """The samples are not memorised, and what should learn them gets no gradient.

    A call gives numbers that have no way back (`detach`, `no_grad`, `argmax`, `.item()`), and
    trained parameters stand behind it that nothing else reaches; or the watch or a check found,
    worse than a note, that a gradient is absent or exactly zero, that units are dead or saturated,
    or that clipping takes it away. Of a loss that is all but gone nothing was missing but what a
    call cut off.

    Sick: `head(encoder(x).detach())`, with a head that is too small to do without.
    Healthy: the same without `detach`.
    """

    family: ClassVar[Literal["verdict"]] = "verdict"
    code: ClassVar[str] = "FIT012"
    rule: ClassVar[str] = "signal-cut"
    cures: ClassVar[tuple[str, ...]] = (THAWED,)
    unless: ClassVar[tuple[Memorised, Diverged]] = (Memorised(), Diverged())

    def lacks(self, curves: Curves) -> str | None:
        """A look at the trained model."""
        return lacks_look(curves)

    def holds(self, curves: Curves) -> bool:
        """Whether the signal is cut."""
        if curves.look is None or any(other.holds(curves) for other in self.unless):
            return False
        return bool(curves.look.cuts) or self._sign(curves) is not None

    def _sign(self, curves: Curves) -> Finding | None:
        """The first of what the watch and the checks found that says so."""
        if curves.gone:
            return None
        bad = {each.code: each for each in reversed(curves.watched) if each.verdict.rank > 1}
        return next((bad[code] for code in SIGNS if code in bad), None)

    def judge(self, curves: Curves) -> Iterator[Finding]:
        """One finding where the signal is cut."""
        if not self.holds(curves):
            return
        look, sign = curves.look, self._sign(curves)
        if look is not None and look.cuts:
            yield self._by_cut(curves, max(look.cuts, key=lambda each: len(each.parameters)))
        elif sign is not None:
            call = self._emptied(curves, sign)
            yield (
                self._by_sign(curves, sign) if call is None else self._by_zeros(curves, call, sign)
            )

    def _emptied(self, curves: Curves, sign: Finding) -> Emptied | None:
        """The call that gives nothing but zeros to the weights whose gradient is zero."""
        call = None if curves.look is None else curves.look.trials.emptied
        told = sign.code == ZERO and call is not None and sign.site in call.parameters
        return call if told else None

    def _by_zeros(self, curves: Curves, call: Emptied, sign: Finding) -> Finding:
        return self._told(
            curves,
            f"{call.words}; {sign.message.rstrip('.')}",
            fix="Let what that call gives follow what it is given: where it rounds, pass the "
            "gradient through as it is; where it masks or scales, look at the factor of zero.",
            site=call.site or "model",
            op=call.op,
            source=call.source,
            found=Evidence("parameters that are given zeros alone", len(call.parameters), 0),
        )

    def _by_cut(self, curves: Curves, cut: Cut) -> Finding:
        line = f" at {cut.source}" if cut.source else ""
        more = f" and {len(cut.parameters) - 1} more" if len(cut.parameters) > 1 else ""
        return self._told(
            curves,
            f"`{cut.op}`{line} cuts `{cut.parameters[0]}`{more} off the loss",
            fix="Take that call away, or freeze what is behind it.",
            site=cut.site or cut.parameters[-1].rpartition(".")[0] or "model",
            op=cut.op,
            source=cut.source,
            found=Evidence("trained parameters cut off", len(cut.parameters), 0),
        )

    def _by_sign(self, curves: Curves, sign: Finding) -> Finding:
        return self._told(
            curves,
            sign.message.rstrip("."),
            fix=sign.fix,
            site=sign.site or "model",
            op=sign.op,
            source=sign.source,
            found=Evidence("found by", sign.code),
        )

    def _told(self, curves: Curves, why: str, *, found: Evidence, **about: Any) -> Finding:
        right = f"right are {curves.told}" if curves.heads else f"the loss is {curves.end:.4g}"
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"the signal is cut in training on {curves.suite}: {why}; {right}.",
            phase="backward",
            step=curves.steps[-1],
            evidence=(found, Evidence("loss at the end", curves.end, anchor=curves.name)),
            **about,
        )
