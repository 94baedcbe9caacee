"""Which parameters and buffers hold numbers that are not finite: exact, and read at an alarm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nan_watch.flags import MEASURED, extremes, read
from probes.wrapped import local

ROWS = 8  # how many rows of a tensor are named


@dataclass(frozen=True, slots=True)
class Poisoned:
    """A tensor that is not finite.

    bad, of: how many of its numbers are not finite, and how many there are.
    rows: the first indices along its first axis that hold one; empty for a vector or scalar.
    """

    name: str
    bad: int
    of: int
    rows: tuple[int, ...] = ()

    def __str__(self) -> str:
        """The name, with the rows where they are few."""
        if not self.rows:
            return f"`{self.name}`"
        more = ", ..." if len(self.rows) == ROWS else ""
        word = "row" if len(self.rows) == 1 else "rows"
        return f"`{self.name}` ({word} {', '.join(map(str, self.rows))}{more})"


def poisoned(
    named: Mapping[str, Tensor], *, infinity_has_a_meaning: bool = True
) -> tuple[Poisoned, ...]:
    """The tensors that are not finite, found in one read.

    In a tensor that is not trained, such as a mask or a running minimum among the buffers, an
    infinity has a meaning and only a NaN counts, unless it is said to have none.
    """
    fit = {
        name: tensor
        for name, tensor in named.items()
        if tensor.dtype in MEASURED and not torch.nn.parameter.is_lazy(tensor)
    }
    pairs = {name: pair for name, t in fit.items() if (pair := extremes(t)) is not None}
    numbers = read([[each for pair in pairs.values() for each in pair]])[0]
    ends = numbers.reshape(-1, 2)  # (tensor, low and high)
    free = np.array([infinity_has_a_meaning and not fit[name].requires_grad for name in pairs])
    odd = np.where(free.astype(bool), np.isnan(ends).any(1), ~np.isfinite(ends).all(1))
    return tuple(
        _counted(name, fit[name]) for name, is_odd in zip(pairs, odd, strict=True) if is_odd
    )


def _counted(name: str, tensor: Tensor) -> Poisoned:
    tensor = local(tensor.detach())
    if tensor.layout is torch.sparse_coo:
        tensor = tensor.coalesce().values()
    bad = ~torch.isfinite(tensor)
    rows: Sequence[int] = ()
    if tensor.ndim > 1:
        rows = bad.flatten(1).any(1).nonzero().flatten()[:ROWS].tolist()  # (row,)
    return Poisoned(name, int(bad.sum()), tensor.numel(), tuple(rows))


def odd(loss: float | None) -> bool:
    """Whether a loss is known, and not finite."""
    return loss is not None and not math.isfinite(loss)
