"""What is laid over an attention's scores just before its softmax: added, multiplied, filled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

How = Literal["add", "multiply", "fill"]

LAID: Mapping[str, How] = {
    **dict.fromkeys(("aten::add", "aten::add_", "aten::baddbmm"), "add"),
    **dict.fromkeys(("aten::mul", "aten::mul_"), "multiply"),
    **dict.fromkeys(("aten::masked_fill", "aten::masked_fill_", "aten::where"), "fill"),
}
ALIKE = {  # the same numbers in the same order
    *("aten::view", "aten::_unsafe_view", "aten::reshape", "aten::clone", "aten::alias"),
    *("aten::detach", "aten::_to_copy"),
}
RECENT = 8  # operators between what is laid over the scores and their softmax, at most


@dataclass(frozen=True, slots=True)
class Laid:
    """What was laid over scores, before it is known whether a softmax takes them.

    given: the operands of an addition or multiplication; of a fill the condition alone, true where
    the scores are replaced. value: of a fill, the number there.
    """

    out: Tensor
    how: How
    given: tuple[Tensor, ...]
    value: float | None
    source: str | None


@dataclass(frozen=True, slots=True)
class Applied:
    """A mask of two values, at the softmax that it was meant for.

    mask, weights: (..., query, key), the mask as it was given and the weights as the values were
    weighed in the end. value: of a fill, the number that hidden scores got.
    """

    site: str
    how: How
    mask: Tensor
    weights: Tensor
    value: float | None
    source: str | None

    @property
    def values(self) -> tuple[float, float]:
        """The two values, the smaller one first."""
        low, high = torch.aminmax(self.mask.double())
        return float(low), float(high)


def laid(name: str, args: Sequence[Any], out: Tensor, source: str | None) -> Laid | None:
    """What this operator lays over its first operand; None where it does no such thing."""
    how = LAID.get(name)
    if how is None or out.ndim < 2 or not out.is_floating_point():
        return None
    if how != "fill":
        tensors = args[:1] if name == "aten::baddbmm" else args[:2]
        given = tuple(each for each in tensors if isinstance(each, Tensor) and each.ndim > 1)
        return Laid(out, how, given, None, source) if given else None
    if name == "aten::where":
        return _chosen(args, out, source)
    value = args[2]
    number = float(value) if not isinstance(value, Tensor) or value.numel() == 1 else None
    return None if number is None else Laid(out, how, (args[1],), number, source)


def _chosen(args: Sequence[Any], out: Tensor, source: str | None) -> Laid | None:
    """Of `where(condition, scores, number)` in either order."""
    if len(args) < 3:
        return None
    for each, fills in ((args[2], ~args[0]), (args[1], args[0])):
        number = _constant(each)
        if number is not None:
            return Laid(out, "fill", (fills,), number, source)
    return None


def _constant(value: Any) -> float | None:
    if not isinstance(value, Tensor):
        return float(value)
    if not value.numel():
        return None
    low, high = torch.aminmax(value)
    return float(low) if bool(low == high) else None


def two_valued(each: Laid, shape: torch.Size, axis: int) -> Tensor | None:
    """The operand that holds two values, in the shape of the scores, their keys last."""
    for given in each.given:
        low, high = (
            torch.aminmax(given) if given.dtype is not torch.bool else (given.all(), given.any())
        )
        if bool(low == high) or not bool(((given == low) | (given == high)).all()):
            continue
        whole = given.expand_as(each.out)
        return whole.reshape(shape).movedim(axis, -1) if whole.numel() == shape.numel() else None
    return None
