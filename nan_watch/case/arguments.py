"""What a call read at the places where what it wrote is not finite, and edits that keep off it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nan_watch.origin.closeup import Call, Made

CARRY = frozenset(  # the same numbers, or some of them
    f"aten.{name}"
    for name in (
        *("_to_copy", "as_strided_copy", "clone", "gather", "index", "index_select"),
        "_unsafe_view",  # nobody writes it: `@` ends with it
        *("slice", "masked_select", "stack", "cat", "take", "native_dropout", "contiguous"),
    )
)


def holds(values: Tensor | None, edge: float) -> bool:
    """Whether one of the numbers is the edge."""
    return values is not None and bool((values == edge).any())


def at(values: Tensor, edge: float) -> Tensor:
    """(...) whether each number is the edge, or so near that 1 over the distance overflows."""
    if not values.is_floating_point():
        return values == edge
    return (values - edge).abs() < torch.finfo(values.dtype).tiny


def below(values: Tensor | None, edge: float) -> bool:
    """Whether one of the numbers is smaller than the edge."""
    return values is not None and bool((values < edge).any())


def beyond(values: Tensor | None, edge: float) -> bool:
    """Whether one of the numbers has a magnitude over the edge."""
    return values is not None and bool((values.abs() > edge).any())


def maker(call: Call, place: int = 0) -> Made | None:
    """Who made the numbers at the place, past operators that only carry them; None if nobody."""
    made = call.made.get(place)
    while made is not None and made.op in CARRY:
        made = made.parents[0] if made.parents else None
    return made


def dims(value: object, ndim: int) -> tuple[int, ...]:
    """The axes that an argument `dim` names; all of them where it names none."""
    if value is None or value == []:
        return tuple(range(ndim))
    return (value,) if isinstance(value, int) else tuple(value)  # type: ignore[arg-type]


def only_minus_inf(values: Tensor, dim: Sequence[int]) -> Tensor:
    """(..., 1) whether a row along the axes holds -inf alone."""
    return values.isneginf().all(dim=tuple(dim), keepdim=True) if values.ndim else values.isneginf()


def opened(values: Tensor, dim: Sequence[int]) -> Tensor:
    """The numbers with zeros in rows that hold -inf alone."""
    return torch.where(only_minus_inf(values, dim), torch.zeros_like(values), values)


def just_over(values: Tensor, edge: float) -> Tensor:
    """The numbers, those at the edge moved a little over it."""
    limits = torch.finfo(values.dtype)
    return torch.where(at(values, edge), edge + (limits.eps if edge else limits.tiny**0.5), values)
