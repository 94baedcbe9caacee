"""By what a term of a loss divides the numbers that it sums, read from its graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LINEAR = (
    *("MeanBackward0", "MeanBackward1", "SumBackward0", "SumBackward1", "MulBackward0"),
    *("DivBackward0", "NegBackward0", "ViewBackward0", "UnsafeViewBackward0", "CloneBackward0"),
    *("ReshapeAliasBackward0", "SqueezeBackward0", "SqueezeBackward1", "SqueezeBackward2"),
    *("UnsqueezeBackward0", "AliasBackward0", "ToCopyBackward0", "TransposeBackward0"),
    *("PermuteBackward0", "UnsafeViewBackward0"),
)
WHOLE = {
    "BinaryCrossEntropyWithLogitsBackward0": "_saved_self",
    "BinaryCrossEntropyBackward0": "_saved_self",
    "MseLossBackward0": "_saved_self",
    "SmoothL1LossBackward0": "_saved_self",
    "HuberLossBackward0": "_saved_self",
    "NllLossBackward0": "_saved_target",
    "NllLoss2DBackward0": "_saved_target",
}
"""Losses that reduce by themselves, and where they keep a tensor with an entry for each number."""
MEAN, SUM = 1, 2


@dataclass(frozen=True, slots=True)
class Reduction:
    """So many numbers are summed, and each of them counts `weight`."""

    numbers: int
    weight: float

    def is_mean(self, within: float) -> bool:
        """Whether they are divided by how many they are, but for a factor up to `within`."""
        return 1 / within <= self.weight * self.numbers <= within

    def is_sum_over(self, samples: int, within: float) -> bool:
        """Whether they are divided by the samples alone, but for such a factor."""
        return 1 / within <= self.weight * samples <= within


def reduction(value: Tensor) -> Reduction | None:
    """Of a single number that is a sum, or a mean, of others; None where it is neither."""
    node: Any = value.grad_fn
    grad = torch.ones_like(value)
    with torch.no_grad():
        while node is not None and (name := node.name()) in LINEAR:
            back = node(grad)
            back = back if isinstance(back, tuple) else (back,)
            ways = [
                (upper, each)
                for (upper, _), each in zip(node.next_functions, back, strict=True)
                if upper is not None
            ]
            if len(ways) != 1 or ways[0][1] is None:
                break
            node, grad = ways[0]
    if node is None:
        return None
    if grad.ndim == 0 and name in WHOLE:
        return _own(node, WHOLE[name], float(grad.abs()))
    counted = int((grad != 0).sum())
    return Reduction(counted, float(grad.abs().max())) if counted > 1 else None


def _own(node: Any, where: str, weight: float) -> Reduction | None:
    numbers = int(getattr(node, where).numel())
    if not numbers or node._saved_reduction not in (MEAN, SUM):
        return None
    each = weight / numbers if node._saved_reduction == MEAN else weight
    return Reduction(numbers, each)
