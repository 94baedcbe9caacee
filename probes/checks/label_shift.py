"""LBL001: an output is scored against the label of another place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.finding import Evidence, ExperimentError, Finding, Verdict, resting_on
from probes.layout import Labels
from probes.reading.causal import Causal, causal, seen_causal
from probes.reading.lag import Lag, lags
from probes.scoring.answers import at_the_loss, scores
from probes.scoring.skipped import Skipped, skipped
from probes.scoring.wrapped import Wrapped, wrapped


@dataclass(frozen=True, slots=True)
class LabelShift:
    """Which output place is scored against which label is not what it should be.

    One label a sample is changed: the output whose gradient changes is the one scored against it.
    Where the shift is declared, the two must agree. Where a causal model's labels are its own
    input ids, shifted or not, the output at a place must be scored against the next id: the same
    id would be copied from its input, and the one after the next was shifted twice. Where outputs
    of a prefix stand before those of the ids, it is held against which ids an output has read.
    Where no key is called labels, the class that the gradient asks for most tells the id that is
    wanted: one place after the last that the output reads, for one of the heads at least. So it
    is of labels that a decoder is fed one place later, and that the loss shifts once more. An id
    that was read before is not wanted, where ids are read in order: shifted the wrong way, there
    is nothing but copying; unless no id tells the next, and to recall was meant. Labels that were
    rolled ask the last place for the first id of its row, which does not follow.

    Sick: labels that were shifted by the data, given to a model that shifts them again;
    `labels = ids.roll(-1, 1)`; `logits[:, 1:]` against `ids[:, :-1]`.
    Healthy: the ids themselves as labels, for a model that shifts them.
    """

    reach: int = 3  # places either way that ids and labels are compared over
    share: float = 0.99

    code: ClassVar[str] = "LBL001"
    rule: ClassVar[str] = "label-shift"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """One key of labels by place, and something to hold the shift against; or ids alone."""
        if lags(experiment) or wrapped(experiment):
            return None
        if not experiment.declared.labels and skipped(experiment):
            return None
        return self._unknown(experiment)

    def _unknown(self, experiment: Experiment) -> str | None:
        keys = self._known(experiment)
        if len(keys) != 1:
            return "there is not one key of class labels by place"
        declared = bool(experiment.declared.labels)
        ordered = any(True for _ in causal(experiment)) or self._copied(experiment, keys[0])
        if not declared and not ordered:
            return "no shift is declared, and no output is known to be causal"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding, and one a key of ids whose first one is asked for at the end."""
        yield from (at_the_loss(experiment, each) for each in self._judge(experiment))

    def _judge(self, experiment: Experiment) -> Iterator[Finding]:
        yield from (self._wrapped(each) for each in wrapped(experiment))
        if lags(experiment):
            yield from (self._late(experiment, each) for each in lags(experiment) if each.lag != 1)
            return
        found = [] if self._unknown(experiment) else list(self._held(experiment))
        yield from found
        if not found and not experiment.declared.labels:
            yield from (self._skipped(each) for each in skipped(experiment))

    def _known(self, experiment: Experiment) -> list[Labels]:
        return [each for each in experiment.layout.labels if _by_place(experiment, each)]

    def _held(self, experiment: Experiment) -> Iterator[Finding]:
        """Against what is declared, or the ids that are read."""
        labels = self._known(experiment)[0]
        shift = _measured(experiment, labels)
        if experiment.declared.labels and shift != labels.shift:
            yield self._undeclared(labels, shift)
            return
        known = tuple(causal(experiment))
        copied = self._copied(experiment, labels)
        if not known and copied:
            known = tuple(one for key in copied for one in seen_causal(experiment, labels, key))
        for each in known:
            ahead = self._offset(experiment, labels, each)
            if ahead is not None and shift + ahead != 1:
                yield self._wrong(experiment, labels, each, shift + ahead)

    def _late(self, experiment: Experiment, each: Lag) -> Finding:
        read = (
            f"has read no further than {each.lag} places before it"
            if each.lag > 1
            else "has read it"
        )
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"`{each.key}` at a place is scored against the output {each.place} places "
            f"on, of {each.outputs} for {each.ids} ids, which {read}: the outputs were not cut by "
            "the prefix that stands before the ids.",
            fix=f"Score `{each.key}` against outputs from place {each.right} on, where the id "
            "before has just been read.",
            site="<loss>",
            phase="forward",
            evidence=(Evidence("places from the last id read to the one asked for", each.lag, 1),),
        )
        declared = any(one.key == each.key for one in experiment.declared.labels)
        return resting_on(
            finding, [] if declared else [f"labels=(Labels({each.key!r}, 'logits'),)"]
        )

    def _skipped(self, each: Skipped) -> Finding:
        by = each.ahead
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{each.output}` is asked for the id of `{each.key}` {_how_far(by)}",
            fix="Shift once: by the data, or by the model's loss (transformers' models shift the "
            "labels themselves)."
            if by > 1
            else f"Score each output against the id after the last one that it has read: without "
            f"padding or a start before it, `logits[:, :-1]` against `{each.key}[:, 1:]`.",
            site="<loss>",
            phase="forward",
            evidence=(Evidence("places from the last id read to the one asked for", by, 1),),
        )
        return resting_on(finding, [each.line])

    def _wrapped(self, each: Wrapped) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{each.output}` is asked at its last place, {each.last}, for the id at place "
            f"0 of the same row of `{each.key}`, in all rows, and for the next id elsewhere: the "
            "labels were rolled, and their first came round to the end.",
            fix="Leave the last place out (`logits[:, :-1]` against `ids[:, 1:]`), or set its "
            "label to the ignored one.",
            site="<loss>",
            phase="forward",
            where={"token": each.last},
            evidence=(Evidence("place that is asked for the first id", each.last),),
        )

    def _copied(self, experiment: Experiment, labels: Labels) -> list[str]:
        """The keys whose entries, so many places on, the labels are."""
        return [
            key
            for key, tensor in experiment.tensors.items()
            if key != labels.key
            and not tensor.is_floating_point()
            and self._ahead(experiment, labels, key) is not None
        ]

    def _offset(self, experiment: Experiment, labels: Labels, each: Causal) -> int | None:
        return self._ahead(experiment, labels, each.key)

    def _ahead(self, experiment: Experiment, labels: Labels, key: str) -> int | None:
        """By how many places the labels lie ahead of the ids; None where that is not clear."""
        ids, wanted = experiment.tensors[key], experiment.tensors[labels.key]
        if ids.shape != wanted.shape:
            return None
        valid = torch.ones_like(wanted, dtype=torch.bool)
        if labels.ignore is not None:
            valid = wanted != labels.ignore
        found = [
            by
            for by in range(-self.reach, self.reach + 1)
            if _agreement(ids, wanted, valid, by) >= self.share
        ]
        return found[0] if len(found) == 1 else None

    def _undeclared(self, labels: Labels, shift: int) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"output place p is scored against `{labels.key}` at p {shift:+d}, but "
            f"p {labels.shift:+d} is declared.",
            fix="Shift labels or outputs by as much, once; or declare "
            f"`Labels({labels.key!r}, {labels.output!r}, shift={shift})`.",
            site="<loss>",
            phase="forward",
            evidence=(Evidence("shift between output and label", shift, labels.shift, "places"),),
        )

    def _wrong(self, experiment: Experiment, labels: Labels, each: Causal, total: int) -> Finding:
        what = (
            f"the id that stands {-total} before it, which it has read"
            if total < 0
            else "the very id that it reads: copying its input is all there is to learn"
            if total == 0
            else f"the id {total} ahead instead of the next: it was shifted twice"
        )
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"`{each.output}` at a place is scored by `{labels.key}` against {what}.",
            fix="Shift once: by the data, or by the model's loss (transformers' models shift the "
            "labels themselves).",
            site="<loss>",
            phase="forward",
            evidence=(Evidence("places from an output to the id it is to give", total, 1),),
        )
        guessed = [f"labels=({labels!r},)"] if not experiment.declared.labels else []
        return resting_on(finding, guessed + ([each.guessed] if each.guessed else []))


def _how_far(by: int) -> str:
    """How many places after the last id that was read the one stands that is asked for."""
    if by > 1:
        return (
            f"{by} places after the last one that it has read, and no output for those between, as "
            f"where labels are shifted {'twice' if by == 2 else f'{by} times'}."
        )
    if by == 0:
        return "that it has read last: copying its input is all there is to learn."
    return (
        f"{-by} place{'s' if by < -1 else ''} before the last one that it has read, and it has "
        "read that one too: labels and outputs were shifted the wrong way, and copying its input "
        "is all there is to learn."
    )


def _by_place(experiment: Experiment, labels: Labels) -> bool:
    values = experiment.tensors.get(labels.key)
    return (
        labels.kind == "class"
        and values is not None
        and values.ndim > 1
        and not values.is_floating_point()
    )


def _agreement(ids: Tensor, wanted: Tensor, valid: Tensor, by: int) -> float:
    """The share of labels that are the id so many places on."""
    width = ids.shape[-1]
    low, high = max(0, -by), min(width, width - by)
    if high - low < 2:
        return 0.0
    here, there, look = wanted[..., low:high], ids[..., low + by : high + by], valid[..., low:high]
    return float((here == there)[look].float().mean()) if bool(look.any()) else 0.0


def _measured(experiment: Experiment, labels: Labels) -> int:
    """How many places after the output its label stands. Raises ExperimentError if unclear."""
    shift = scores(experiment, labels).shift
    if shift is None:
        raise ExperimentError(
            "no single output is scored against a label, by the gradients of what the model gives"
        )
    return shift
