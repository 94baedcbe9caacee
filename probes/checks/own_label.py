"""MSK008: an output reads the label that it is scored against."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from probes.bus import Kind
from probes.compare import SAME, Comparison, Difference, Look
from probes.experiment import Experiment, with_leaf
from probes.finding import Evidence, Finding, Verdict, resting_on
from probes.modules import every_module
from probes.place import place
from probes.scoring.labelled import Labelled, labelled
from probes.vary import vary


@dataclass(frozen=True, slots=True)
class OwnLabel:
    """The output at a place changes with the label that it is scored against.

    A decoder that is fed its labels must be fed those before: all labels from a place on, a
    quarter, a half and three quarters of the way, get other values, and no output up to there may
    move. One label a sample, as of a classifier, may move no output at all. The loss is not an
    output, nor is what holds one number a label.

    Sick: `decoder(inputs=labels)`, scored against the same `labels`.
    Healthy: `decoder(inputs=shifted_right(labels))`.
    """

    code: ClassVar[str] = "MSK008"
    rule: ClassVar[str] = "reads-its-label"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """An output with a label each."""
        if not any(True for _ in labelled(experiment)):
            return "no output is known to be scored against a key of labels"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding an output."""
        for each in labelled(experiment):
            for cut in each.cuts:
                found = self._cut(experiment, each, cut)
                own = [one for one in found.outputs if one.site == each.output]
                if own:
                    yield self._finding(experiment, each, found, own[0])
                    break

    def _cut(self, experiment: Experiment, each: Labelled, cut: int) -> Comparison:
        values = experiment.tensors[each.labels.key]
        later = each.from_place(values, cut)
        valid = torch.ones_like(later)
        if each.labels.ignore is not None and not values.is_floating_point():
            valid = values != each.labels.ignore
        changed = vary(values, later & valid, values[valid])
        if changed is None:
            return SAME
        ran = experiment.evaluate(with_leaf(experiment.batch, each.labels.key, changed))
        found = experiment.parted(
            f"{each.labels.key} from {cut} on", ran, _earlier(experiment, each, cut)
        )
        root = next(every_module(experiment.subject.model))[0]  # may well be given its labels
        return found.only(lambda site: site.module != root or site.kind is not Kind.INPUT)

    def _finding(
        self, experiment: Experiment, each: Labelled, found: Comparison, own: Difference
    ) -> Finding:
        where = place(found, experiment.subject.model)
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"`{each.output}` reads the label that it is scored against, {where.words}: "
            f"with other `{each.labels.key}` it changes by {100 * own.relative:.2g}%.",
            fix=f"Keep `{each.labels.key}` out of the inputs, or shift what the decoder is fed by "
            "one place to the right.",
            site=where.site,
            phase="forward",
            where=dict(own.where),
            evidence=(Evidence(f"largest change of `{each.output}`", own.largest, own.limit),),
        )
        return resting_on(finding, each.guessed)


def _earlier(experiment: Experiment, each: Labelled, cut: int) -> Look:
    """Looks at what is scored against labels from the cut's place on, and not beyond it."""
    lead = tuple(experiment.tensors[each.labels.key].shape)

    def look(site: str, value: Tensor) -> Tensor | None:
        if site in experiment.outputs and site != each.output:
            return None
        if tuple(value.shape[: len(lead)]) != lead:
            return None
        places = torch.arange(lead[-1], device=value.device)
        seen = places <= cut - each.labels.shift if len(lead) > 1 else places >= 0
        return seen.view(*[1] * (len(lead) - 1), -1, *[1] * (value.ndim - len(lead)))

    return look
