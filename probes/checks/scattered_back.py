"""IDX028: what is picked by one end of the edges is added up there; nobody reads the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, ExperimentError, Finding, Verdict
from probes.operators.scattered import Returned, halves, scattered_back


@dataclass(frozen=True, slots=True)
class ScatteredBack:
    """Rows are picked by one end of the edges and added up at the same end: none reaches another.

    An index such as the edges of a graph says of each pair from where to where. What is picked by
    the one end and added up by it comes back to where it was, and what a row gets does not hang on
    any other row, which its gradient tells; the other end is never used as an index, and with other
    values there loss and outputs are the same. Where either end is read somewhere, as by
    a softmax over the edges of a node, nothing is said. A note where the batch holds more of each
    pair than a weight, which may be all that is to be added up.

    Sick: `torch.zeros_like(x).index_add_(0, src, x[src])` of `src, dst = edge_index`.
    Healthy: `torch.zeros_like(x).index_add_(0, dst, x[src])`.
    """

    code: ClassVar[str] = "IDX028"
    rule: ClassVar[str] = "scattered-back"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A loss, and two indices that belong together."""
        if next(halves(experiment), None) is None:
            return "the batch holds no pairs of integers"
        return experiment.lacks_loss

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """One finding for each half that nobody reads."""
        with suppress(ExperimentError):
            for each in scattered_back(experiment):
                yield self._finding(each)

    def _finding(self, each: Returned) -> Finding:
        read, unread = each.read.words, each.unread.words
        at = f" at {each.picked}" if each.picked and each.picked != each.source else ""
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN if each.bare else Verdict.NOTE,
            message=f"what `{each.site}` picks by {read}{at} is added up by {read} again: each row "
            "gets back its own and nothing of any other, and nobody reads "
            f"{unread}: with other values there, loss and outputs are the same.",
            fix=f"Give `{each.op}` there {unread} as its index.",
            site=each.site,
            op=f"aten.{each.op}",
            phase="forward",
            source=each.source,
            evidence=(
                Evidence(f"pairs by {read} whose other end is unread", len(each.read.values), 0),
            ),
        )
