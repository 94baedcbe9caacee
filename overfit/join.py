"""Makes few batches of many: those whose shapes agree are joined along their sample axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from probes.batch import leaves, map_leaves
from probes.subject import Batch


def join(parts: Sequence[tuple[Batch, Mapping[str, int]]]) -> list[tuple[Batch, list[int]]]:
    """As few batches as the shapes allow, each with the indices of the parts that it holds.

    parts: batches with the sample axes of their leaves. Nothing is padded: parts are joined where
    every tensor agrees in all axes but the sample axis and what has no sample axis is equal.
    """
    held: list[list[int]] = []
    for index, part in enumerate(parts):
        for row in held:
            if _alike(parts[row[0]], part):
                row.append(index)
                break
        else:
            held.append([index])
    return [(_joined([parts[index] for index in row]), row) for row in held]


def _alike(left: tuple[Batch, Mapping[str, int]], right: tuple[Batch, Mapping[str, int]]) -> bool:
    (one, axes), (other, other_axes) = left, right
    if not axes or axes != other_axes or type(one) is not type(other):
        return False
    first, second = leaves(one), leaves(other)
    return list(first) == list(second) and all(
        _fits(first[path], second[path], axes.get(path)) for path in first
    )


def _fits(left: Any, right: Any, axis: int | None) -> bool:
    if axis is None:
        return same(left, right)
    if type(left) is not type(right):
        return False
    if not isinstance(left, Tensor):
        return True
    return left.dtype == right.dtype and _without(left, axis) == _without(right, axis)


def _without(tensor: Tensor, axis: int) -> tuple[int, ...]:
    return (*tensor.shape[:axis], *tensor.shape[axis + 1 :])


def same(left: Any, right: Any) -> bool:
    """Whether two leaves hold the same, to the bit."""
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    return type(left) is type(right) and bool(left == right)


def _joined(parts: Sequence[tuple[Batch, Mapping[str, int]]]) -> Batch:
    batch, axes = parts[0]
    if len(parts) == 1:
        return batch
    found = [leaves(each) for each, _ in parts]

    def all_of(path: str, leaf: Any) -> Any:
        if path not in axes:
            return leaf
        if isinstance(leaf, Tensor):
            return torch.cat([each[path] for each in found], dim=axes[path])
        return type(leaf)(value for each in found for value in each[path])

    return map_leaves(batch, all_of)
