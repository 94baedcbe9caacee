"""NAN000: where something not finite was first seen, when no cause is known for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from nan_watch.case.material import Case
from nan_watch.case.naming import named, sight
from probes.finding import Finding


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

    def lacks(self, case: Case) -> str | None:
        """Nothing: a poisoned step always has a first place, however coarse."""
        return None

    def judge(self, case: Case) -> Iterator[Finding]:
        """The one place at which it was first seen, or born where the step was replayed."""
        finding = sight(self, case)
        yield finding if case.origin is None else named(finding, case.origin)
