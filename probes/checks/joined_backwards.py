"""STA014: a reading from the end is joined, in reversed order, to one from the start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, ExperimentError, Finding, Verdict, resting_on
from probes.reading.joined import Joined, joined_backwards


@dataclass(frozen=True, slots=True)
class JoinedBackwards:
    """Two readings of one sequence are joined place by place, and one of them runs backwards.

    A recurrence over the flipped sequence, or a loop from its end, gives its states in that order,
    and they must be turned round before they stand beside the states of the other direction: else
    the first token gets what was read of the last. The key is changed at one place after the other:
    what moves of one part must not walk along while what moves of the other walks the other way.
    Told where an output by place is scored; what is pooled over all places bears any order.

    Sick: `torch.cat([forward(x)[0], backward(x.flip(1))[0]], -1)`.
    Healthy: `torch.cat([forward(x)[0], backward(x.flip(1))[0].flip(1)], -1)`.
    """

    code: ClassVar[str] = "STA014"
    rule: ClassVar[str] = "joined-in-reverse"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A loss."""
        return experiment.lacks_loss

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding."""
        with suppress(ExperimentError):
            for each in joined_backwards(experiment):
                yield resting_on(self._finding(each), experiment.samples_guessed)

    def _finding(self, each: Joined) -> Finding:
        at = f" at {each.line}" if each.line else ""
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"`{each.op}`{at} joins two readings of `{each.key}` place by place, one of "
            f"which stands in reversed order: beside what was read at place 0 stands what was read "
            f"at place {each.last}, and `{each.output}` is scored by place.",
            fix="Turn what was read from the end round, by `flip(1)` or `[::-1]`, before it is "
            "joined.",
            site=each.output,
            phase="forward",
            source=each.line,
            evidence=(Evidence("places from one reading to the other", each.last, 0),),
        )
