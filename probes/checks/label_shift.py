"""LBL001: an output is scored against the label of another place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from probes.bus import Bus, Kind, See, every_module
from probes.causal import Causal, causal
from probes.experiment import Experiment, attempted, copied, resting_on, with_leaf
from probes.finding import Evidence, ExperimentError, Finding, Verdict
from probes.layout import Labels
from probes.replay import Snapshot, replay
from probes.subject import Batch


@dataclass(frozen=True, slots=True)
class LabelShift:
    """Which output place is scored against which label is not what it should be.

    One label a sample is changed: the output whose gradient changes is the one scored against it.
    Where the shift is declared, the two must agree. Where a causal model's labels are its own
    input ids, shifted or not, the output at a place must be scored against the next id: the same
    id would be copied from its input, and the one after the next was shifted twice.

    Sick: labels that were shifted by the data, given to a model that shifts them again.
    Healthy: the ids themselves as labels, for a model that shifts them.
    """

    reach: int = 3  # places either way that ids and labels are compared over
    share: float = 0.99

    code: ClassVar[str] = "LBL001"
    rule: ClassVar[str] = "label-shift"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """One key of labels by place, and something to hold the shift against."""
        keys = [each for each in experiment.layout.labels if _by_place(experiment, each)]
        if len(keys) != 1:
            return "there is not one key of class labels by place"
        declared = bool(experiment.declared.labels)
        if not declared and not any(True for _ in causal(experiment)):
            return "no shift is declared, and no output is known to be causal"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding."""
        labels = next(each for each in experiment.layout.labels if _by_place(experiment, each))
        shift = _measured(experiment, labels)
        if experiment.declared.labels and shift != labels.shift:
            yield self._undeclared(labels, shift)
            return
        for each in causal(experiment):
            ahead = self._offset(experiment, labels, each)
            if ahead is not None and shift + ahead != 1:
                yield self._wrong(experiment, labels, each, shift + ahead)

    def _offset(self, experiment: Experiment, labels: Labels, each: Causal) -> int | None:
        """By how many places the labels lie ahead of the ids; None where that is not clear."""
        ids, wanted = experiment.tensors[each.key], experiment.tensors[labels.key]
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


def _by_place(experiment: Experiment, labels: Labels) -> bool:
    values = experiment.tensors.get(labels.key)
    return (
        labels.kind == "class"
        and values is not None
        and values.ndim == 2
        and not values.is_floating_point()
    )


def _agreement(ids: Tensor, wanted: Tensor, valid: Tensor, by: int) -> float:
    """The share of labels that are the id so many places on."""
    width = ids.shape[1]
    low, high = max(0, -by), min(width, width - by)
    if high - low < 2:
        return 0.0
    here, there, look = wanted[:, low:high], ids[:, low + by : high + by], valid[:, low:high]
    return float((here == there)[look].float().mean()) if bool(look.any()) else 0.0


@dataclass(slots=True)
class _Live:
    """Holds what the model itself gave, for as long as its gradient is asked for."""

    bus: Bus | None = None
    root: str = ""
    found: list[Tensor] = field(default_factory=list)
    sees: Mapping[Kind, See] = field(init=False)

    def __post_init__(self) -> None:
        self.sees = {Kind.OUTPUT: self.see}

    def see(self, number: int, tensor: Tensor) -> None:
        assert self.bus is not None
        name = self.bus.sites[number].name
        own = name == self.root or name.startswith((self.root + "[", self.root + "."))
        if own and tensor.requires_grad and tensor.ndim == 3:
            self.found.append(tensor)


def _gradients(experiment: Experiment, batch: Batch) -> list[Tensor]:
    """The loss's gradients with respect to what the model gives, in evaluation mode."""
    model, subject = experiment.subject.model, experiment.subject
    grads: list[Tensor] = []

    def step() -> Tensor:
        with attempted("`Subject.loss`, with another label,"):
            loss = subject.loss(model.eval(), copied(batch))
        if live.found and loss.requires_grad:
            got = torch.autograd.grad(loss, live.found, allow_unused=True)
            grads.extend(g.detach().clone() for g in got if g is not None)
        return loss.detach()

    live = _Live(root=next(every_module(model))[0])
    with Bus(model, [live]) as live.bus:
        replay(step, model, Snapshot.take(model))
    live.found.clear()
    return grads


def _measured(experiment: Experiment, labels: Labels) -> int:
    """How many places after the output its label stands. Raises ExperimentError if unclear."""
    values = experiment.tensors[labels.key]
    before = _gradients(experiment, experiment.batch)
    shifts: Counter[int] = Counter()
    for share in (1, 2):
        changed, at = _one_a_sample(values, labels.ignore, share)
        after = _gradients(experiment, with_leaf(experiment.batch, labels.key, changed))
        for one, two in zip(before, after, strict=False):
            if one.shape != two.shape or one.shape[:2] != values.shape:
                continue
            moved = ((one - two).abs().amax(2) > 1e-6 * one.abs().max()).nonzero().tolist()
            places: dict[int, list[int]] = {}
            for row, place in moved:
                places.setdefault(row, []).append(place)
            shifts.update(at[row] - p[0] for row, p in places.items() if len(p) == 1 and row in at)
    if len(shifts) != 1:
        raise ExperimentError(
            "no single output is scored against a label, by the gradients of what the model gives"
        )
    return next(iter(shifts))


def _one_a_sample(values: Tensor, ignore: int | None, share: int) -> tuple[Tensor, dict[int, int]]:
    """The labels with one of each sample changed to another that occurs, and their places."""
    changed, at = values.clone(), {}
    valid = torch.ones_like(values, dtype=torch.bool) if ignore is None else values != ignore
    known = torch.unique(values[valid])
    for row in range(len(values) if len(known) > 1 else 0):
        places = valid[row].nonzero().flatten().tolist()[1:]
        if places:
            place = places[len(places) * share // 3]
            new = known[known != values[row, place]][0]
            changed[row, place], at[row] = new, place
    return changed, at
