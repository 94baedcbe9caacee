"""WIR031: columns of an input that nobody reads, beside others that are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.reading.read_columns import MORE, Sisters, read_by_sisters, unread_columns, wide_keys
from probes.reading.told_by_columns import Told, told

FEW = 4  # columns that are named


@dataclass(frozen=True, slots=True)
class UnreadColumns:
    """Some columns of a key are read, and others move neither the loss nor any output.

    Of numbers, a row a sample or a place, columns whose gradient is zero in the first batches and
    whose other values move nothing. A model may be meant to see less than it is handed, which is a
    note. It is a warning where modules that are one of a kind, as of a list, are given the same
    columns in their place, as where an offset is not moved on; and where the unread ones tell of
    the labels what the read ones do not: a linear fit by all is better by `gain` of the labels'
    variance, on rows that it was not made of. Columns that nearly are the labels, above `leak`, are
    left out by the careful.

    Sick: `[layer(x[:, start : start + 4]) for layer in layers]`, where `start` stays 0.
    Healthy: the same with `start += 4`; `model(batch["x"][:, :4])` where the rest tells nothing.
    """

    gain: float = 0.1
    leak: float = 0.95

    code: ClassVar[str] = "WIR031"
    rule: ClassVar[str] = "unread-columns"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A key of columns of numbers."""
        if not wide_keys(experiment):
            return "no key of the batch holds columns of numbers"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """One finding a key."""
        batches = list(islice(experiment.subject.batches, MORE))
        for key, columns in unread_columns(experiment, batches).items():
            sisters = read_by_sisters(experiment, key)
            tells = told(experiment, key, columns)
            if tells is not None and not self._is_missed(tells):
                tells = None
            yield self._finding(experiment, key, columns, sisters, tells)

    def _is_missed(self, tells: Told) -> bool:
        return tells.every - tells.read >= self.gain and tells.alone < self.leak

    def _finding(
        self,
        experiment: Experiment,
        key: str,
        columns: list[int],
        sisters: Sisters | None,
        tells: Told | None,
    ) -> Finding:
        width = experiment.tensors[key].shape[-1]
        words, site = "", "<data>"
        if sisters is not None:
            names, site = ", ".join(f"`{name}`" for name in sisters.names[:FEW]), sisters.names[0]
            words = f"; {names} are given the same ones, {_few(sisters.columns)}, instead"
        elif tells is not None:
            words = f"; they tell of `{tells.labels}` what the others do not"
        evidence = [Evidence(f"columns of `{key}` that nobody reads", len(columns), 0)]
        if tells is not None:
            by = f"of `{tells.labels}` that a linear fit tells, by the columns that are read"
            evidence.append(Evidence(f"share {by}", tells.read))
            evidence.append(Evidence("by all columns", tells.every, tells.read + self.gain))
        missed = sisters is not None or tells is not None
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN if missed else Verdict.NOTE,
            message=f"nobody reads {len(columns)} of {width} columns of `{key}`: with other values "
            f"in {_few(columns)}, loss and outputs are the same{words}.",
            fix="Look for a slice that ends early, or an offset that stays where it is."
            if missed
            else "Nothing, if the model is not meant to read them.",
            site=site,
            phase="forward",
            where={"column": columns[0]},
            source=None if sisters is None else sisters.source,
            evidence=tuple(evidence),
        )


def _few(columns: Sequence[int]) -> str:
    if len(columns) > FEW and list(columns) == list(range(columns[0], columns[-1] + 1)):
        return f"{columns[0]} to {columns[-1]}"
    return ", ".join(map(str, columns[:FEW])) + (", ..." if len(columns) > FEW else "")
