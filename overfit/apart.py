"""Whether each sample's own label is the likeliest, to a loss of which no share says anything."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from probes.batch import leaves, map_leaves, sample_axes, sample_count
from probes.experiment import Experiment
from probes.finding import ExperimentError
from probes.layout import Layout
from probes.seeding import seed_everything
from probes.subject import Batch, Subject
from probes.undisturbed import undisturbed

NEAR = 0.45  # of the spread of labels: twice the error that leaves a twentieth of their variance
FAR = 10.0  # times the size of labels
NEAREST = 4  # other labels that a sample's own is held against, the nearest
LACKING = 0.05  # of the samples, at most


@dataclass(frozen=True, slots=True)
class Apart:
    """right of count samples have a lower loss with their own label than with any near it.

    It was counted no further than to where it is clear that too many have not. own, others: the
    loss of all, with their own labels and with those of the sample before.
    """

    right: int
    count: int
    own: float
    others: float

    @property
    def told(self) -> bool:
        """Whether all samples, but for a few, are told apart by their labels."""
        return self.count > 0 and self.count - self.right <= LACKING * self.count


def label_keys(subject: Subject, batch: Batch) -> tuple[str, ...]:
    """The keys by sample that the loss alone reads; none where that cannot be found out."""
    axes = sample_axes(batch, subject.layout)
    layout = subject.layout or Layout()
    try:
        found = Experiment(subject, batch, layout, layout).targets
    except ExperimentError:
        return ()
    return tuple(key for key in found if key in axes)


def apart(subject: Subject, batches: Sequence[Batch], keys: Sequence[str]) -> Apart | None:
    """How far the samples are told apart by the labels at these keys, in evaluation mode.

    The label of one sample after the other is exchanged for others' of its batch, the nearest
    that are not the same. None where there are no two samples in a batch, or numbers that are not
    to be met: where labels far off lower the loss, as the advantages of a policy's actions do. None
    of classes beside numbers, either, which may be actions and what they were paid.
    """
    known = [each for each in batches if (sample_count(each, subject.layout) or 0) > 1]
    if not known or not keys:
        return None
    found = leaves(known[0])
    if len({found[key].is_floating_point() for key in keys}) > 1:
        return None
    total = sum(sample_count(each, subject.layout) or 0 for each in known)
    right = seen = 0
    own, others = [], []
    with undisturbed(subject.model), torch.no_grad():
        if not _are_met(subject, known[0], keys):
            return None
        for batch in known:
            n = sample_count(batch, subject.layout) or 0
            own.append(_loss(subject, batch))
            before = {i: (i - 1) % n for i in range(n)}
            others.append(_loss(subject, _exchanged(subject, batch, keys, before)))
            for i, near in _nearest(subject, batch, keys):
                seen += 1
                right += all(
                    _loss(subject, _exchanged(subject, batch, keys, {i: j})) > own[-1] for j in near
                )
                if seen - right > LACKING * total:
                    return Apart(right, seen, fmean(own), fmean(others))
    return Apart(right, seen, fmean(own), fmean(others))


def _are_met(subject: Subject, batch: Batch, keys: Sequence[str]) -> bool:
    """Whether there are classes alone, or numbers to be met: off from all these it is higher."""
    found = leaves(batch)
    floats = [key for key in keys if found[key].is_floating_point()]

    def moved(by: float) -> float:
        def change(path: str, leaf: Any) -> Any:
            return leaf + by * FAR * (leaf.std() + leaf.abs().mean()) if path in floats else leaf

        return _loss(subject, map_leaves(batch, change))

    return not floats or min(moved(1.0), moved(-1.0)) > _loss(subject, batch)


def _loss(subject: Subject, batch: Batch) -> float:
    seed_everything(0)
    found = float(subject.loss(subject.model, batch))
    return math.inf if math.isnan(found) else found


def _exchanged(subject: Subject, batch: Batch, keys: Sequence[str], of: Mapping[int, int]) -> Batch:
    """The batch in which these samples have the labels of those."""
    axes = sample_axes(batch, subject.layout)

    def change(path: str, leaf: object) -> object:
        if path not in keys or not isinstance(leaf, Tensor):
            return leaf
        order = [of.get(i, i) for i in range(leaf.shape[axes[path]])]
        return leaf.index_select(axes[path], torch.tensor(order, device=leaf.device))

    return map_leaves(batch, change)


def _nearest(
    subject: Subject, batch: Batch, keys: Sequence[str]
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """For each sample those whose labels are nearest to its own, and not the same."""
    axes, found = sample_axes(batch, subject.layout), leaves(batch)
    rows = [found[key].detach().double().movedim(axes[key], 0) for key in keys]
    labels = torch.cat([each.reshape(len(each), -1).cpu() for each in rows], 1).nan_to_num()
    spread = labels.std(0)
    labels = labels / spread.clamp(min=1e-12)
    far = torch.cdist(labels, labels, p=math.inf)
    for i, row in enumerate(far):
        order = [int(j) for j in row.argsort() if row[j] > NEAR]
        yield i, tuple(order[:NEAREST])
