"""NAN000: where something not finite was first seen, when no cause is known for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from nan_watch.case import Case
from nan_watch.first import Place, first_place
from nan_watch.naming import named
from nan_watch.symptom import Symptom
from probes.finding import Evidence, Finding, Verdict


@dataclass(frozen=True)
class UnknownOrigin:
    """Something is not finite; where it was first seen is known, why it is so is not.

    The sites of a step are read in the order in which they ran: the first whose output, or
    whose output's gradient, is not finite while all before it were. It was born in that site or
    in the code between it and the one before; `-inf` alone, and an infinity that healthy steps
    had as well, is taken for a mask as long as anything else is found.

    Sick:    `loss = -(probabilities + 0.0).log().mean()` where a probability is 0.
    Healthy: `loss = F.nll_loss(F.log_softmax(logits, -1), labels)`.
    """

    code: ClassVar[str] = "NAN000"
    rule: ClassVar[str] = "unknown-origin"
    family: ClassVar[Literal["cause"]] = "cause"

    history: int = 8  # steps before that are shown

    def lacks(self, case: Case) -> str | None:
        """Nothing: a poisoned step always has a first place, however coarse."""
        return None

    def judge(self, case: Case) -> Iterator[Finding]:
        """The one place at which it was first seen, or born where the step was replayed."""
        place = first_place(case.symptom)
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=place.message,
            fix=place.fix,
            site=place.site,
            phase=place.phase,
            step=place.step,
            where=place.where,
            evidence=(
                *place.evidence,
                *self._now(case.symptom),
                *self._before(case.symptom, place),
            ),
        )
        yield finding if case.origin is None else named(finding, case.origin)

    def _now(self, symptom: Symptom) -> Iterator[Evidence]:
        if symptom.loss is not None:
            yield Evidence("loss", symptom.loss, "finite", step=symptom.step)
        if symptom.grads:
            names = ", ".join(grad.name for grad in symptom.grads[:3])
            more = ", ..." if len(symptom.grads) > 3 else ""
            what = f"parameters whose gradient is not finite ({names}{more})"
            yield Evidence(what, len(symptom.grads), 0, step=symptom.step)

    def _before(self, symptom: Symptom, place: Place) -> Iterator[Evidence]:
        streams = [("loss", "value", "<loss>", "loss")]
        if place.reading is not None:
            kind, site = place.reading
            streams.append((kind, "abs_max", site, f"largest |{kind}| of {site}"))
        for kind, stat, site, what in streams:
            past = [pair for pair in symptom.past.of(kind, stat, site) if pair[0] < symptom.step]
            for step, value in past[-self.history :]:
                yield Evidence(what, value, "finite", step=step)
