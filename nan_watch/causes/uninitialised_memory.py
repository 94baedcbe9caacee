"""NAN021: memory that nobody wrote is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from nan_watch.case.material import Case
from nan_watch.case.naming import told
from nan_watch.origin.events import EMPTY
from probes.finding import Finding


@dataclass(frozen=True, slots=True)
class UninitialisedMemory:
    """An operator reads memory that was taken and not wholly written.

    `torch.empty` and its like give what some other tensor left there: mostly zeros or small
    numbers, now and then a NaN. That it comes and goes with unrelated changes is its mark.

    Sick:    `state = torch.empty(batch, width)`, of which a mask fills some rows.
    Healthy: `torch.zeros(batch, width)`
    """

    code: ClassVar[str] = "NAN021"
    rule: ClassVar[str] = "uninitialised-memory"
    family: ClassVar[Literal["cause"]] = "cause"

    def lacks(self, case: Case) -> str | None:
        """The origin."""
        return case.lacks_origin

    def judge(self, case: Case) -> Iterator[Finding]:
        """Where the memory was taken."""
        if case.origin is not None and case.origin.given == EMPTY:
            yield told(
                self,
                case,
                "takes memory that is read before it was written",
                "Take `torch.zeros` or `torch.full` for it, or write every element.",
            )
