"""IDX022: the mean over a span misses one of the entries that it is divided by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.operators.prefix_sums import Short


@dataclass(frozen=True, slots=True)
class ShortSum:
    """A difference of one running sum is divided by one more than the entries that it sums.

    `run[end] - run[start]` is the sum of what comes after the start, up to the end. Where each such
    difference, of spans of different lengths, is divided by one more than that, the start is
    counted and never read, and a span of one entry is zero whatever stands there. With a zero in
    front of the running sum it is the end that is missing; a note, since the one may be there for
    spans that are empty. Spans of which each begins where the one before ends are healthy, and so
    is a mean to which the entry at the missing end is added.

    Sick: `(run[end] - run[start]) / (end - start + 1)` of `run = x.cumsum(0)`.
    Healthy: `(run[end] - run[start] + x[start]) / (end - start + 1)` there.
    """

    code: ClassVar[str] = "IDX022"
    rule: ClassVar[str] = "short-running-sum"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Nothing."""
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """One finding a line."""
        for short in experiment.operated.short:
            yield self._finding(short)

    def _finding(self, short: Short) -> Finding:
        end, where = ("last", "ends before") if short.led else ("first", "begins after")
        entries = (short.last - short.first).flatten()
        zero = "; spans of one entry give zeros" if bool((entries == 0).any()) else ""
        unless = ", unless the one is there for spans that are empty" if short.led else ""
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.NOTE if short.led else Verdict.WARN,
            message=f"the mean over a span misses its {end} entry: the difference of the running "
            f"sum {where} it, and is divided by one more than it sums{zero}{unless}.",
            fix="Take the running sum off before the span's first entry and read it at its last: "
            "put a zero in front, and read `run[end + 1] - run[start]` where the end belongs to "
            "the span.",
            site=short.site,
            op="cumsum",
            phase="forward",
            source=short.source,
            evidence=(
                Evidence("entries that the first span sums", int(entries[0])),
                Evidence("what it is divided by", float(short.width.flatten()[0]), int(entries[0])),
            ),
        )
