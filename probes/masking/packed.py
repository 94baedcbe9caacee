"""Cuts a batch whose samples have as many rows as they like, such as graphs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from probes.batch import leaves, map_leaves
from probes.compare import NOISES, gap, scale
from probes.experiment import LOSS, Experiment
from probes.finding import ExperimentError
from probes.masking.owners import Owners, owners, pair_ends
from probes.subject import Batch

MOST = 16  # samples of a batch that is not cut, where it cannot be
KEPT = 7  # samples of one that is


@dataclass(frozen=True)
class Few:
    """An experiment with some samples of a batch, and whose its rows are.

    samples: where each stands in the whole batch.
    """

    experiment: Experiment
    owned: Owners
    samples: tuple[int, ...]


def few(experiment: Experiment, owned: Owners) -> Few | None:
    """With a few of the samples, if that gives for them what the whole batch does, or with all.

    None where there are too many, and the batch cannot be cut.
    """
    whole = Few(experiment, owned, tuple(range(owned.size)))
    if owned.size <= KEPT:
        return whole
    samples = tuple(range(owned.size - KEPT, owned.size))  # the last, whose numbers move on most
    batch = cut(experiment.batch, owned, samples)
    if batch is not None:
        other = experiment.of_batch(batch)
        fewer = owners(other)
        if fewer is not None and fewer.size == KEPT and _is_same(experiment, owned, other, samples):
            return Few(other, fewer, samples)
    return whole if owned.size <= MOST else None


def _is_same(
    experiment: Experiment, owned: Owners, other: Experiment, samples: tuple[int, ...]
) -> bool:
    """Whether all outputs of rows and samples are those that they were beside the others."""
    part = _Part(owned, samples, leaves(experiment.batch))
    try:
        after = other.evaluated.ran
    except ExperimentError:
        return False
    looked = 0
    for name, value in experiment.outputs.items():
        own = part.own(value)
        if name == LOSS or own is None or name not in after.outputs:
            continue
        before, now = value[own.to(value.device)], after.outputs[name]
        limit = max(experiment.evaluated.ran.rounding, after.rounding) * scale(before)
        noise = NOISES * max(experiment.evaluated.noise, other.evaluated.noise)
        if before.shape != now.shape or gap(before, now)[0] > max(limit, noise):
            return False
        looked += 1
    return looked > 0


def cut(batch: Batch, owned: Owners, samples: tuple[int, ...]) -> Batch | None:
    """The batch of these samples, which ascend; None where it is unclear how to cut a part of it.

    Numbers of rows, as an edge's two ends, are told by being the sample's own, and count anew.
    """
    found = leaves(batch)
    part = _Part(owned, samples, found)
    made = {path: part.of(path, leaf) for path, leaf in found.items()}
    if part.is_unclear or any(leaf is None for leaf in made.values()):
        return None
    return map_leaves(batch, lambda path, _: made[path])


class _Part:
    """What is some samples' own, of a batch."""

    def __init__(self, owned: Owners, samples: tuple[int, ...], whole: dict[str, Any]) -> None:
        self._owned, self._whole, of = owned, whole, owned.of.long()
        self._samples = torch.tensor(samples, device=of.device)
        self._rank = torch.zeros(owned.size, dtype=torch.long, device=of.device)
        self._rank[self._samples] = torch.arange(len(samples), device=of.device)
        self._rows = torch.isin(of, self._samples)
        self._place = self._rows.long().cumsum(0) - 1

    @cached_property
    def _pairs(self) -> dict[str, Tensor]:
        """(2, edge) rows, of every key of pairs of them."""
        found = {k: t for k, t in self._whole.items() if isinstance(t, Tensor) and t.numel()}
        rows = len(self._rows)
        return {k: pair for k, t in found.items() if (pair := pair_ends(t, rows)) is not None}

    @cached_property
    def _owners(self) -> list[Tensor]:
        """The sample of each row, of each sample and of each edge."""
        of = self._owned.of.long()
        each = torch.arange(self._owned.size, device=of.device)
        return [of, each, *(of[pair[0]] for pair in self._pairs.values())]

    @property
    def is_unclear(self) -> bool:
        """Whether pairs lead across, or things of several kinds are as many."""
        of, known = self._owned.of, dict[int, Tensor]()
        apart = any(not torch.equal(of[one], of[two]) for one, two in self._pairs.values())
        alike = (known.setdefault(len(each), each) for each in self._owners)
        two = any(not torch.equal(one, each) for one, each in zip(alike, self._owners, strict=True))
        return apart or two or self._owned.inner != 1 or len(of) == self._owned.size

    def _of(self, count: int) -> Tensor | None:
        return next((each for each in self._owners if len(each) == count), None)

    def own(self, value: Tensor) -> Tensor | None:
        """True for each entry of the first axis that is theirs; None where that is unknown."""
        of = self._of(len(value)) if value.ndim else None
        return None if of is None else torch.isin(of, self._samples)

    def of(self, path: str, leaf: Any) -> Any:
        """The leaf of these samples; None where it is unclear."""
        if isinstance(leaf, Tensor):
            return self._tensor(path, leaf)
        if isinstance(leaf, (list, tuple)):
            if len(leaf) != self._owned.size:
                return None
            return type(leaf)(leaf[int(each)] for each in self._samples)
        return self._number(leaf) if isinstance(leaf, int) else leaf

    def _number(self, leaf: int) -> int | None:
        counts = {len(each): int(torch.isin(each, self._samples).sum()) for each in self._owners}
        return counts.get(leaf, leaf)

    def _tensor(self, path: str, leaf: Tensor) -> Tensor | None:
        if path == self._owned.told and len(leaf) == len(self._rows):
            return self._rank[leaf[self._rows].long()].to(leaf.dtype)
        if path in self._pairs:
            kept = torch.isin(self._owned.of[self._pairs[path][0]], self._samples)
            pairs = leaf[:, kept] if len(leaf) == 2 else leaf[kept]
            return self._place[pairs.long()].to(leaf.dtype)
        if not leaf.ndim:
            whole = not leaf.is_floating_point() and leaf.dtype is not torch.bool
            return leaf.new_tensor(self._number(int(leaf))) if whole else leaf
        own = self.own(leaf)
        if own is None:
            return self._offsets(leaf)
        return self._moved(leaf, own)

    def _offsets(self, leaf: Tensor) -> Tensor | None:
        """Where each sample's rows begin, 0 first and their number last; None of anything else."""
        counts, none = self._owned.of.long().bincount(), leaf.new_zeros(1)
        if leaf.ndim != 1 or not torch.equal(leaf, torch.cat([none, counts.cumsum(0).to(leaf)])):
            return None
        return torch.cat([none, counts[self._samples].cumsum(0).to(leaf)])

    def _moved(self, leaf: Tensor, own: Tensor) -> Tensor:
        """Those entries; of numbers of rows of each one's own sample, where the rows now stand."""
        part, of, rows = leaf[own], self._of(len(leaf)), len(self._rows)
        if leaf.is_floating_point() or leaf.dtype is torch.bool or of is None or not leaf.numel():
            return part
        if int(leaf.min()) < 0 or int(leaf.max()) >= rows:
            return part
        told = self._owned.of[leaf.long()] == of.reshape(-1, *[1] * (leaf.ndim - 1))
        return self._place[part.long()].to(leaf.dtype) if bool(told.all()) else part
