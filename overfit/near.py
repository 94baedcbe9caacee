"""Samples that stay wrong, and those among them whose inputs are next to another's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from overfit.targets import Target
from probes.batch import leaves
from probes.subject import Batch

NEAR = 0.02  # of the median distance between two samples
MOST = 512  # samples that are compared, each with each


@dataclass(frozen=True, slots=True)
class Near:
    """Two samples with different labels whose inputs lie close together.

    one, other: their places in the suite. share: their distance, of the median of all pairs.
    """

    one: int
    other: int
    share: float


def wrong_samples(targets: Sequence[Target]) -> tuple[int, ...]:
    """The samples of which some label that is scored has not the largest score."""
    found: set[int] = set()
    for target in targets:
        first = 0
        for piece in target.pieces if target.kind == "class" else ():
            if piece.by_sample and piece.scores is not None:
                wrong = (piece.scores.argmax(-1) != piece.labels) & piece.counted
                rows = wrong.reshape(len(wrong), -1).any(1).nonzero().flatten().tolist()
                found |= {first + row for row in rows}
            first += len(piece.labels)
    return tuple(sorted(found))


def near_conflicts(
    batches: Sequence[Batch], keys: Sequence[str], targets: Sequence[Target]
) -> tuple[Near, ...]:
    """Pairs of samples of which the inputs are near and the class labels differ, nearest first.

    Inputs are compared where all of the keys hold floats of one shape; each key counts by its own
    deviation.
    """
    rows, labels = _inputs(batches, keys), _labels(targets)
    if rows is None or labels is None or not 2 < len(rows) == len(labels) <= MOST:
        return ()
    apart = torch.cdist(rows, rows)
    upper = torch.triu(torch.ones_like(apart, dtype=torch.bool), 1)
    middle = float(apart[upper].median())
    odd = upper & (labels[:, None] != labels) & (apart > 0) & (apart <= NEAR * middle)
    pairs = odd.nonzero().tolist()
    found = (Near(i, j, float(apart[i, j]) / middle) for i, j in pairs)
    return tuple(sorted(found, key=lambda each: each.share))


def _inputs(batches: Sequence[Batch], keys: Sequence[str]) -> Tensor | None:
    """(sample, feature) all floats of all keys; None where something else is among them."""
    found = []
    for key in keys:
        parts = [leaves(batch).get(key) for batch in batches]
        tensors = [each for each in parts if isinstance(each, Tensor) and each.ndim]
        shapes = {tuple(each.shape[1:]) for each in tensors}
        floats = all(each.is_floating_point() for each in tensors)
        if len(tensors) < len(parts) or not floats or len(shapes) != 1:
            return None
        whole = torch.cat(tensors).flatten(1).double().cpu()
        found.append(whole / whole.std().clamp(min=1e-12))
    sizes = {len(each) for each in found}
    return torch.cat(found, 1) if len(sizes) == 1 else None


def _labels(targets: Sequence[Target]) -> Tensor | None:
    """(sample,) the label of each, of the only target that has one each; None where none has."""
    fit = [each for each in targets if each.kind == "class" and all(_one_each(each))]
    if len(fit) != 1:
        return None
    return torch.cat([piece.labels.flatten().cpu() for piece in fit[0].pieces])


def _one_each(target: Target) -> Iterator[bool]:
    for piece in target.pieces:
        yield piece.by_sample and piece.labels.numel() == len(piece.labels)
