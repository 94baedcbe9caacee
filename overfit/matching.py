"""Finds the batch key whose values a loss is handed, so that labels can be laid out by sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.batch import leaves, sample_axes
from probes.guess import LABELS
from probes.layout import Layout
from probes.scoring.calls import Call
from probes.subject import Batch


@dataclass(frozen=True, slots=True)
class Place:
    """A key whose positions from `shift` on are what a loss was handed, in the same order.

    shape: of those positions, samples first. padded: positions behind them that the loss was
    handed as well and that hold nothing.
    """

    key: str
    shift: int
    shape: tuple[int, ...]
    padded: int

    def laid_out(self, call: Call) -> tuple[Tensor, Tensor, Tensor | None]:
        """Labels, counted (sample, ...) and scores (sample, ..., class) of the call."""
        wide = (*self.shape[:-1], self.shape[-1] + self.padded) if self.padded else self.shape
        keep = slice(0, self.shape[-1]) if self.padded else slice(None)
        labels, counted = call.labels.reshape(wide), call.counted.reshape(wide)
        scores = None
        if call.kind == "class":
            scores = call.scores.reshape(*wide, call.scores.shape[-1])
            scores = scores[..., keep, :] if self.padded else scores
        if not self.padded:
            return labels, counted, scores
        return labels[..., keep], counted[..., keep], scores

    def answers(self, call: Call) -> Tensor | None:
        """The numbers that are held against the labels, in their shape; None of classes."""
        if call.kind not in ("value", "binary"):
            return None
        wide = (*self.shape[:-1], self.shape[-1] + self.padded) if self.padded else self.shape
        found = call.scores.reshape(wide)
        return found[..., : self.shape[-1]] if self.padded else found


def place_of(call: Call, batch: Batch, layout: Layout) -> Place | None:
    """Where the call's labels stand in the batch; None where no key holds them."""
    return _likeliest(_places(call, batch, sample_axes(batch, layout)))


def places_of(
    calls: Sequence[Call], batches: Sequence[Batch], layout: Layout
) -> list[Place | None]:
    """The same of a call that each of the batches makes, all of one key where one holds them all.

    A batch of one sample has its leaves along samples where the others have: of itself it does not
    tell.
    """
    own = [sample_axes(each, layout) for each in batches]
    most = max(own, key=len, default={})
    found = [
        _places(call, batch, axes or most)
        for call, batch, axes in zip(calls, batches, own, strict=True)
    ]
    common = set.intersection(*({each.key for each in some} for some in found)) if found else set()
    return [
        _likeliest([each for each in some if not common or each.key in common]) for some in found
    ]


def _places(call: Call, batch: Batch, axes: Mapping[str, int]) -> list[Place]:
    if call.kind == "shares":
        return []
    return [
        place
        for key, leaf in leaves(batch).items()
        if isinstance(leaf, Tensor) and axes.get(key) == 0
        for place in _fits(key, leaf, call)
    ]


def _likeliest(found: Sequence[Place]) -> Place | None:
    return min(
        found, key=lambda p: (not LABELS.search(p.key.rpartition(".")[2]), p.shift), default=None
    )


def _fits(key: str, leaf: Tensor, call: Call) -> Iterator[Place]:
    """The ways in which the leaf's values are what the loss was handed."""
    if leaf.is_floating_point() != call.labels.is_floating_point() and call.kind == "class":
        return
    if _same(leaf, call):
        yield Place(key, 0, tuple(leaf.shape), 0)
    elif leaf.ndim > 1 and leaf.shape[1] > 1 and leaf.ndim == 2:
        cut = leaf[:, 1:]
        if _same(cut, call):
            yield Place(key, 1, tuple(cut.shape), 0)
        elif call.labels.numel() == leaf.numel():
            rows, counted = call.labels.reshape(leaf.shape), call.counted.reshape(leaf.shape)
            if _equal(rows[:, :-1], cut, counted[:, :-1]) and not bool(counted[:, -1].any()):
                yield Place(key, 1, tuple(cut.shape), 1)


def _same(leaf: Tensor, call: Call) -> bool:
    if leaf.numel() != call.labels.numel():
        return False
    return _equal(call.labels.flatten(), leaf.flatten(), call.counted.flatten())


def _equal(one: Tensor, other: Tensor, where: Tensor) -> bool:
    """Whether both hold the same wherever it counts, and it counts somewhere."""
    if not bool(where.any()):
        return False
    return torch.equal(one[where].double(), other[where].double())
