"""MSK015: what stands in one document of a row reaches the next, past the attention's borders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from probes.compare import Comparison, Difference, Look
from probes.execution import Ran
from probes.experiment import Experiment, with_leaf
from probes.finding import Evidence, Finding, Verdict
from probes.place import place
from probes.softmaxes.attended import attended
from probes.softmaxes.borders import ROWS, borders
from probes.vary import vary


@dataclass(frozen=True, slots=True)
class Crossing:
    """Attention keeps the documents of a row apart, but their borders are crossed elsewhere.

    Where every attention among places parts each row into pieces of its own, at other places in
    other rows, the content of the first piece is changed, and what comes after must not move: a
    shift of tokens, a convolution or a running sum that does not stop at the border. Padding is no
    document. That it enters
    at a few places next to a border, and at no other, tells it from a model that reads its pieces
    apart and puts them together by design, as sentences of a text.

    Sick: `before = F.pad(x, (0, 0, 1, 0))[:, :-1]` of rows that hold several documents.
    Healthy: `before = before * (doc == doc_before)[..., None]`.
    """

    reach: int = 4  # places after a border at which it may enter

    code: ClassVar[str] = "MSK015"
    rule: ClassVar[str] = "crosses-documents"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Attention that parts rows, each at places of its own."""
        if not experiment.size or borders(attended(experiment), experiment.size) is None:
            return "no attention parts the rows of a batch into pieces, each row into its own"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding."""
        parts = borders(attended(experiment), experiment.size)
        assert parts is not None
        after = parts.cumsum(1)  # (sample, place) how many borders came before
        for key in _content(experiment, parts.shape[1]):
            tensor = experiment.tensors[key]
            where = torch.zeros(tensor.shape[:2], dtype=torch.bool, device=tensor.device)
            where[:, : parts.shape[1]] = (after == 0) & (after[:, -1:] > 0)
            there = after * ~_ended(experiment, key)[:, : parts.shape[1]]
            if int(there.any(1).sum()) < ROWS:
                continue
            other = vary(tensor, where)
            if other is None:
                continue
            batch = with_leaf(experiment.batch, key, other)
            ran = experiment.evaluate(batch)
            found = experiment.parted(f"{key} before the first border", ran, _later(there))
            if found.outputs and self._enters_beside(experiment, ran, found, there):
                same = borders(attended(experiment, batch), experiment.size)
                if same is not None and torch.equal(same, parts):
                    yield self._finding(experiment, key, found, parts)
                    return

    def _enters_beside(
        self, experiment: Experiment, ran: Ran, found: Comparison, after: Tensor
    ) -> bool:
        """Whether the first site that moves does so just after first borders, and nowhere else."""
        first = found.start
        if first is None:
            return False
        before, value = (_value(each, first) for each in (experiment.evaluated.ran, ran))
        if before is None or value is None or before.shape != value.shape:
            return False
        moved = (before - value).abs().nan_to_num().flatten(2).amax(2) > first.limit
        later, near = after > 0, _near(after, self.reach)
        far = later & ~near
        return not bool((moved & far).any()) and int(far.sum()) > int((moved & later).sum())

    def _finding(
        self, experiment: Experiment, key: str, found: Comparison, parts: Tensor
    ) -> Finding:
        where = place(found, experiment.subject.model)
        worst = max(found.outputs, key=lambda one: one.relative)
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{key}` crosses the borders that attention keeps in its rows, {where.words}: "
            f"other content before the first border changes `{worst.site}` after it by "
            f"{100 * worst.relative:.2g}%, and enters at the places next to it alone.",
            fix="Stop there at borders what is taken from places before: a shift, a convolution, a "
            "running sum; such as `before * (doc == doc_before)`.",
            site=where.site,
            phase="forward",
            where=dict(worst.where),
            evidence=(
                Evidence(f"largest change of `{worst.site}`", worst.largest, worst.limit),
                Evidence("borders inside rows", int(parts.sum())),
            ),
        )


def _content(experiment: Experiment, width: int) -> Iterator[str]:
    """Keys by place, be the last one cut off, but for masks, numbers of documents and places."""
    masks = {each.key for each in experiment.layout.masks}
    for key, tensor in experiment.tensors.items():
        ndim = 3 if tensor.is_floating_point() else 2
        if key in masks or tensor.ndim != ndim or tensor.dtype is torch.bool:
            continue
        fits = len(tensor) == experiment.size and tensor.shape[1] in (width, width + 1)
        if fits and (tensor.is_floating_point() or not _is_counted(tensor)):
            yield key


def _ended(experiment: Experiment, key: str) -> Tensor:
    """(sample, place) true at padding: hidden by a mask, or in a run that the row ends in."""
    tensor = experiment.tensors[key]
    rows = tensor if tensor.ndim == 2 else tensor.flatten(2)
    same = rows == rows[:, -1:]
    runs = (same if same.ndim == 2 else same.all(2)).flip(1).cumprod(1).flip(1).bool()
    runs &= runs.sum(1, keepdim=True) > 1
    for each in experiment.masks:
        if tuple(each.keep.shape) == tuple(runs.shape):
            runs |= ~each.keep
    return runs


def _is_counted(tensor: Tensor) -> bool:
    """Whether most entries are the one before, or one more."""
    steps = tensor[:, 1:] - tensor[:, :-1]
    return float(((steps == 0) | (steps == 1)).float().mean()) > 1 / 2


def _later(after: Tensor) -> Look:
    def look(_: str, value: Tensor) -> Tensor | None:
        if value.ndim < 2 or value.shape[:2] != after.shape:
            return None
        return (after > 0).reshape(*after.shape, *[1] * (value.ndim - 2))

    return look


def _near(after: Tensor, reach: int) -> Tensor:
    """(sample, place) the first few places after each row's first border."""
    start = (after > 0).float().cumsum(1)
    return (start > 0) & (start <= reach)


def _value(ran: Ran, first: Difference) -> Tensor | None:
    at = (first.site, first.kind, first.call)
    return next((e.value for e in ran.events if (e.site, e.kind, e.call) == at), None)
