"""NAN026: an entry that a mask has hidden is picked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from nan_watch.case.material import Case
from nan_watch.case.naming import told
from nan_watch.case.trial import Patch
from probes.finding import Finding
from probes.patch import argument

PICKS = (
    *("aten.nll_loss_forward", "aten.nll_loss2d_forward", "aten.gather", "aten.index"),
    *("aten.index_select", "aten.take", "aten.masked_select"),
)
SUMS = ("aten.sum", "aten.mean", "aten.dot")


@dataclass(frozen=True, slots=True)
class HiddenEntryPicked:
    """A label points at an entry that the mask has set to -inf.

    The mask is healthy, and so is the label by itself; together they say that the right answer
    is impossible, and its log-likelihood is -inf. Mask and label were made from different things,
    or one of them is shifted.

    Sick:    `F.cross_entropy(logits.masked_fill(~allowed, -inf), label)`, label not allowed
    Healthy: the same where each label is among the allowed
    """

    code: ClassVar[str] = "NAN026"
    rule: ClassVar[str] = "hidden-entry-picked"
    family: ClassVar[Literal["cause"]] = "cause"

    def lacks(self, case: Case) -> str | None:
        """The origin."""
        return case.lacks_origin

    def judge(self, case: Case) -> Iterator[Finding]:
        """The operator that picks."""
        birth = case.birth
        if birth is None or case.op not in PICKS + SUMS or birth.nan_born or birth.inf_born:
            return
        if any(read.held.inf and not read.held.nan for read in birth.reads):
            yield told(
                self,
                case,
                f"{'picks' if case.op in PICKS else 'sums'} an entry that a mask has set to -inf",
                "Make mask and labels from one source, and check that every label is allowed; "
                "leave samples out whose label is not.",
            )

    def patches(self, case: Case) -> Iterator[Patch]:
        """The same step with a large finite number for -inf."""
        if case.call is not None and case.trial is not None:

            def bounded(values: Tensor) -> Tensor:
                return values.nan_to_num(posinf=1e4, neginf=-1e4)

            words = "with a large finite number for -inf"
            yield case.trial.edit(words, case.call, argument(0, bounded))
