"""WIR032: the last id of every sample is read by nobody, and tells of its label."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.modules import every_module
from probes.reading.ends import End, ends, is_unread


@dataclass(frozen=True, slots=True)
class UnreadEnd:
    """The last visible id of every sample, or the first, tells of the label and moves nothing.

    As where a slot for what is to be guessed is written one place early, over the last item. It is
    asked where samples that share the id have the same label more often than those that share the
    one beside it, by `gain` of the pairs; then the ids there are handed round among the samples,
    and loss and outputs are the same, while those beside it move them. An end that is one id in all
    samples, or that is the label itself and must not be read, is healthy.

    Sick: `ids.scatter(1, length[:, None], MASK)` after one id was put before them all.
    Healthy: `ids.scatter(1, length[:, None] + 1, MASK)` there.
    """

    gain: float = 0.2

    code: ClassVar[str] = "WIR032"
    rule: ClassVar[str] = "unread-end"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A mask, and labels."""
        if not experiment.masks:
            return "no mask says where samples end"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """One finding a key."""
        said = set[str]()
        for end in ends(experiment):
            tells = end.agree - max(end.beside, end.all) >= self.gain and end.same < end.agree / 2
            if end.key not in said and tells and is_unread(experiment, end):
                said.add(end.key)
                yield self._finding(experiment, end)

    def _finding(self, experiment: Experiment, end: End) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"nobody reads the {end.end} id of any sample of `{end.key}`, and it tells of "
            f"`{end.labels}`: with another sample's in its place, loss and outputs are the same.",
            fix="Look for an index that is off by one: a place that is written over, or a slice "
            "that ends early.",
            site=next(every_module(experiment.subject.model))[0],
            phase="forward",
            where={"token": end.end},
            evidence=(
                Evidence(
                    f"pairs that share the {end.end} id and have the same `{end.labels}`",
                    end.agree,
                    max(end.beside, end.all) + self.gain,
                ),
                Evidence("that share the one beside it", end.beside),
                Evidence("of all pairs", end.all),
            ),
        )
