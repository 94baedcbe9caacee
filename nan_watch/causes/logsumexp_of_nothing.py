"""NAN011: the log of a sum over nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from nan_watch.case.arguments import dims, only_minus_inf, opened
from nan_watch.case.material import Case
from nan_watch.case.naming import told
from nan_watch.case.trial import Patch
from probes.finding import Finding
from probes.patch import argument


@dataclass(frozen=True, slots=True)
class LogsumexpOfNothing:
    """A logsumexp runs over a row that holds -inf alone.

    The sum is 0 and its log -inf; the derivative is exp(-inf - (-inf)), which is NaN. It is the
    forward algorithm of a CRF or of CTC in a state that cannot be reached.

    Sick:    `torch.logsumexp(scores.masked_fill(mask, -inf), dim=-1)` with a row masked whole.
    Healthy: `torch.logsumexp(scores.masked_fill(mask, -1e4), dim=-1)`
    """

    code: ClassVar[str] = "NAN011"
    rule: ClassVar[str] = "logsumexp-of-nothing"
    family: ClassVar[Literal["cause"]] = "cause"

    def lacks(self, case: Case) -> str | None:
        """The origin."""
        return case.lacks_origin

    def judge(self, case: Case) -> Iterator[Finding]:
        """The call, and the first row."""
        call = case.call
        values = None if call is None or case.op != "aten.logsumexp" else call.values(0)
        if call is None or values is None:
            return
        rows = int(only_minus_inf(values, dims(call.arg(1), values.ndim)).sum())
        if rows:
            yield told(
                self,
                case,
                f"runs over {rows} {'row' if rows == 1 else 'rows'} of nothing but -inf",
                "Mask with a large finite number, such as -1e4, instead of -inf, or leave such "
                "rows out before the sum.",
            )

    def patches(self, case: Case) -> Iterator[Patch]:
        """The same step with these rows opened."""
        call, trial = case.call, case.trial
        if call is not None and trial is not None:
            dim = dims(call.arg(1), call.args[0].ndim)
            yield trial.edit(
                "with these rows opened", call, argument(0, lambda scores: opened(scores, dim))
            )
