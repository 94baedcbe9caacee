"""STA007: a recurrence runs over the samples instead of over time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

from torch import Tensor, nn

from probes.batch import take
from probes.experiment import Experiment
from probes.finding import Evidence, ExperimentError, Finding, Verdict, resting_on
from probes.states.life import Life
from probes.states.recurrence import Call, Recurrent, equal


@dataclass(frozen=True, slots=True)
class OverSamples:
    """The steps of a recurrent module are the samples of the batch.

    One sample is replaced by another, and what each recurrent module reads is compared: where
    only one step of it changes, and that is the sample's, the axes of time and sample are taken for
    each other, and every sample starts from the state of the one before it.

    Sick: `nn.LSTM(8, 16)` fed with (sample, time, feature).
    Healthy: `nn.LSTM(8, 16, batch_first=True)`.
    """

    code: ClassVar[str] = "STA007"
    rule: ClassVar[str] = "recurrence-over-samples"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A recurrent module, and three samples."""
        if experiment.size < 3:
            return "the batch cannot be cut into three samples or more"
        by_sample = (t.ndim == 1 and len(t) == experiment.size for t in experiment.tensors.values())
        if experiment.samples_guessed and not any(by_sample):
            return "no key holds one value a sample: the first axis may be time"
        return None if experiment.recurrent else "no recurrent module is called"

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a module."""
        size, row = experiment.size, experiment.size // 2
        for source in (row - 1, row + 1):
            order = [source if i == row else i for i in range(size)]
            try:
                other = take(experiment.batch, order, experiment.layout)
                found = {each.site: each for each in Life(experiment).recurrent(other)}
            except ExperimentError:
                continue  # such as lengths that are to be sorted
            for each in experiment.recurrent:
                after = found.get(each.site)
                if after is not None and len(after.calls) == len(each.calls):
                    yield from self._of(experiment, each, after, row)
            return
        raise ExperimentError("no sample can be replaced by another")

    def _of(
        self, experiment: Experiment, each: Recurrent, after: Recurrent, row: int
    ) -> Iterator[Finding]:
        size = experiment.size
        if isinstance(each.module, nn.RNNBase):
            axis = 1 if each.module.batch_first else 0
            pairs = zip(each.calls, after.calls, strict=True)
            rows = [one.x for one, two in pairs if _is_row(one.x, two.x, axis, row, size)]
            if not rows:
                return
            told = f"its time axis, axis {axis} of {tuple(rows[0].shape)}, holds the samples"
        elif _steps_are_samples(each, after, row, size):
            told = f"its {size} calls, each from the state of the last, are the samples"
        else:
            return
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"`{each.site}` runs over the samples of the batch: {told}.",
            fix="Give it time along that axis: `batch_first=True` for (sample, time, feature), "
            "`transpose(0, 1)` else.",
            site=each.site,
            phase="forward",
            source=each.calls[0].source,
            evidence=(Evidence("steps that are samples", size, 0),),
        )
        yield resting_on(finding, experiment.samples_guessed)


def _is_row(before: Tensor, after: Tensor, axis: int, row: int, size: int) -> bool:
    """Whether only this entry of the axis changed, which is as long as the batch."""
    if before.ndim != 3 or before.shape != after.shape or before.shape[axis] != size:
        return False
    others = [i for i in range(3) if i != axis]
    moved = (before != after).any(others[1]).any(others[0])
    return bool(moved[row]) and int(moved.sum()) == 1


def _steps_are_samples(each: Recurrent, after: Recurrent, row: int, size: int) -> bool:
    for calls, others in zip(each.groups(), after.groups(), strict=False):
        if len(calls) != size or len(others) != size:
            return False
        moved = [not equal(one.x, two.x) for one, two in zip(calls, others, strict=True)]
        if not moved[row] or sum(moved) != 1:
            return False
        if not all(_goes_on(each, one, two) for one, two in pairwise(calls)):
            return False
    return True


def _goes_on(each: Recurrent, one: Call, two: Call) -> bool:
    gave = one.after(each.parts)
    return bool(two.before) and all(
        equal(a.value, b.value) for a, b in zip(two.before, gave, strict=False)
    )
