"""IDX018: all that the loss sees of a learned table is one row, though it is asked for several."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import LOSS, Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.reading.seen_rows import OneSeen, one_seen


@dataclass(frozen=True, slots=True)
class HiddenRows:
    """A table that is to tell places apart gives one row to all that are seen, the rest to masks.

    Such as the distance of a query from its key with its sign the wrong way round, cut at zero: all
    of the past is at distance 0, the rows of other distances go to the future, which a causal mask
    hides. Followed is the gradient at each place that was looked up: it is nothing but zeros where
    any other row was asked for, in each of the first batches. Told where four rows or more are
    asked for, four places or more of a query or sample are seen, and no row is asked for more
    often. What is looked up is the same in all batches: ids, of the batch or of what it masks, are
    not judged.

    Sick: `table((query - key).clamp(max=0).neg())` under a causal mask.
    Healthy: `table((key - query).clamp(max=0).neg())`.
    """

    code: ClassVar[str] = "IDX018"
    rule: ClassVar[str] = "hidden-rows"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A loss."""
        if LOSS not in experiment.evaluated.ran.outputs:
            return "the loss could not be had: `Subject.loss` raises"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """One finding a table."""
        for each in one_seen(experiment):
            yield self._finding(each)

    def _finding(self, each: OneSeen) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{each.name}` is asked for {each.asked} rows, and at each of the "
            f"{each.places} places that the loss sees for row {each.row} alone: the others are "
            "asked for where a mask hides them, so that it tells nothing apart.",
            fix="Look for a difference the wrong way round, as of query and key, or for a mask "
            "the wrong way round, where the rows are counted.",
            site=each.site,
            op="aten.embedding",
            phase="forward",
            where={"row": each.row},
            source=each.line,
            evidence=(
                Evidence("rows that are asked for", each.asked),
                Evidence("rows that the loss sees", 1),
                Evidence("places that the loss sees", each.places),
                Evidence("places where others are asked for", each.elsewhere),
            ),
        )
