"""LBL005: all labels are of one class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict, resting_on
from probes.reading.rows import classes, looked
from probes.scoring.asked_for import is_asked_for


@dataclass(frozen=True, slots=True)
class OneClass:
    """Every label of the first batches is of the same class, so that nothing is to be learned.

    A threshold in other units than the score, a file read twice, a join that found nothing: the
    loss falls at once, and the model says the same of everything. Labels are read until a second
    class shows; where few are there, it may be chance, and nothing is said. Of a key that no loss
    function is asked for, as a flag that a target is computed with, it is a note.

    Sick: `labels = (score > 50).long()` of scores from 0 to 1.
    Healthy: `labels = (score > 0.5).long()`.
    """

    least: int = 20  # labels below which one class may be chance

    code: ClassVar[str] = "LBL005"
    rule: ClassVar[str] = "one-class"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A key of one class a sample."""
        if not any(True for _ in classes(experiment)):
            return "no key is known to hold one class a sample"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a key of labels."""
        for key in classes(experiment):
            only, count = self._only(experiment, key)
            if only is not None and count >= self.least:
                yield self._finding(experiment, key, only, count)

    def _only(self, experiment: Experiment, key: str) -> tuple[float | None, int]:
        """The one class there is, and how often; None from a second class on."""
        only, count = None, 0
        for batch in looked(experiment):
            found = torch.unique(batch[key]) if key in batch else torch.zeros(0, device="cpu")
            found = found[found >= 0]
            count += int((batch[key] >= 0).sum()) if key in batch else 0
            if len(found) > 1 or (len(found) and only not in (None, float(found[0]))):
                return None, count
            only = float(found[0]) if len(found) else only
        return only, count

    def _finding(self, experiment: Experiment, key: str, only: float, count: int) -> Finding:
        asked = is_asked_for(experiment, key)
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN if asked else Verdict.NOTE,
            message=f"all {count} labels of `{key}` that were looked at are {only:g}: whatever "
            "the input, one answer is right"
            + ("." if asked else ", if that is what is to be learned."),
            fix="Look where the labels are made: a threshold in other units, a filter that left "
            "one class, a column of another table.",
            site="<data>",
            phase="data",
            evidence=(Evidence("classes among the labels", 1, 2, f"of {count}"),),
        )
        declared = any(each.key == key for each in experiment.declared.labels)
        line = f"labels=(Labels({key!r}, output='output'),)"
        return resting_on(finding, [] if declared else [line])
