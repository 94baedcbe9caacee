"""IDX014: rows of which each sample has several are laid out for samples that they are not of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import LOSS, Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.reading.alive import alive, site_of
from probes.scoring.regrouped import Regrouped, regrouped


@dataclass(frozen=True, slots=True)
class RegroupedRows:
    """Rows lie view by view, and are laid out as if they lay sample by sample; or the reverse.

    Of two views a sample that were put one after the other, `view(n, 2, -1)` gives sample i rows
    2 i and 2 i + 1, which are of two samples; of views that lie beside each other `chunk(2)` does.
    Which sample a row is of is told by changing two of them, one after the other. The axis must
    shrink with the batch, what is cut into parts must meet row by row, and the loss must be another
    one where rows are laid out in the order in which they lie. That a loss compares samples is by
    design, and so are rows that are rolled, drawn or sorted: they are let be.

    Sick: `model(torch.cat(views)).view(n, 2, -1)`.
    Healthy: `model(torch.cat(views)).view(2, n, -1).transpose(0, 1)`.
    """

    code: ClassVar[str] = "IDX014"
    rule: ClassVar[str] = "regrouped-rows"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Samples, and a loss."""
        if experiment.size < 3:
            return "the batch cannot be cut into three samples or more"
        if LOSS not in experiment.evaluated.ran.outputs:
            return "the loss could not be had: `Subject.loss` raises"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding."""
        found = regrouped(experiment)
        if found is not None:
            yield self._finding(experiment, found)

    def _finding(self, experiment: Experiment, found: Regrouped) -> Finding:
        lie, taken = ("one copy of the batch after the other", "sample by sample")
        right = f"`view({found.times}, n, ...)`, then `transpose(0, 1)`"
        if not found.by_sample:
            lie, taken = taken, lie
            right = f"`view(n, {found.times}, ...)`, and take its second axis apart"
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{found.op}` at {found.line or 'a line that is not of the subject'} lays out "
            f"{found.times} rows a sample as if they lay {taken}, and they lie {lie}: what stands "
            f"there for sample 0 is of samples {_and(found.samples)}.",
            fix=f"Take the rows in the order in which they lie: {right}.",
            site=_site(experiment, found),
            op=f"aten.{found.op.strip('_')}",
            phase="forward",
            source=found.line,
            samples=found.samples,
            evidence=(
                Evidence("loss", found.loss),
                Evidence("loss with each sample's own rows", found.mended),
            ),
        )


def _site(experiment: Experiment, found: Regrouped) -> str:
    seen = alive(experiment)
    orders = [each.order for each in (*seen.views, *seen.parted) if each.line == found.line]
    return site_of(experiment, seen, orders[0]) if orders else "<loss>"


def _and(samples: tuple[int, ...]) -> str:
    return f"{', '.join(map(str, samples[:-1]))} and {samples[-1]}"
