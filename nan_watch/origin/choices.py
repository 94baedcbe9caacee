"""Operators that choose: whether one let an element through, or hid it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nan_watch.origin.held import Where
from nan_watch.origin.operators import Operator
from probes.nested import tensors_in

CHOICES = ("Where", "MaskedFill", "Clamp", "Maximum", "Minimum", "Max", "Min", "NanToNum", "Relu")
Index = tuple[int | slice, ...]
ALL = slice(None)


def chooses(node: str | None) -> bool:
    """Whether the autograd node is that of an operator that chooses."""
    return node is not None and node.startswith(CHOICES) and node.endswith(("0", "1"))


def hides(
    known: Operator,
    func: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    incoming: Tensor,
    where: Where | None,
) -> bool:
    """Whether a choice's backward operator gives 0 at the place, whatever gradient it is given.

    incoming: that gradient, among args. It is given ones in its place; a zero that came to it is
    not its own. Where its elements cannot be laid beside those of the place, one zero is enough.
    """
    written = known.written(args, kwargs)
    ones = torch.ones_like(incoming)

    def instead(value: Any) -> Any:
        if value is incoming:
            return ones
        return value.clone() if any(value is each for each in written) else value

    with torch.no_grad():
        out = next(tensors_in(func(*map(instead, args), **kwargs)), None)
    if out is None:
        return False
    zeros = out == 0
    places = [] if where is None or not where.first else list(_beside(out.shape, where))
    return any(bool(zeros[place].all()) for place in places) if places else bool(zeros.any())


def _beside(shape: Sequence[int], where: Where) -> Iterator[Index]:
    """Where the first bad element lies in a tensor of the shape, in each way that may be meant.

    Axes are laid side by side from the first on, or from the last on, as far as both have some.
    """
    last = min(len(shape), len(where.shape))
    more = (ALL,) * (len(shape) - last)
    front = _index(shape[:last], where.shape[:last], where.first[0][:last])
    if front is not None:
        yield (*front, *more)
    own, other = len(shape) - last, len(where.shape) - last
    back = _index(shape[own:], where.shape[other:], where.first[0][other:])
    if back is not None:
        yield (*more, *back)


def _index(own: Sequence[int], other: Sequence[int], first: Sequence[int]) -> Index | None:
    """The element, where the axes fit; an axis of one entry fits any."""
    axes = list(zip(own, other, first, strict=True))
    if any(one != two and 1 not in (one, two) for one, two, _ in axes):
        return None
    return tuple(at if one == two else 0 if one == 1 else ALL for one, two, at in axes)
