"""Padding that can be seen in the values themselves: rows that end in runs of one value."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from probes.masking.hidden import Hidden

ROWS = 2  # rows at least that must end in a run, of two lengths at least


def trailing(values: Tensor) -> Tensor | None:
    """(row, place) true in the runs of one id that rows end in; None where that is no padding.

    values: (row, place) of integers. The id occurs nowhere else, one row or more ends otherwise
    or later, and the runs are of several lengths, one of two places or more.
    """
    if values.ndim != 2 or values.is_floating_point() or values.shape[1] < 3:
        return None
    for value in values[:, -1].unique().tolist():
        same = values == value
        runs: Tensor = same.flip(1).cumprod(1).flip(1).bool()
        lengths = runs.sum(1)
        some = lengths[lengths > 0]
        clear = torch.equal(runs, same) and len(some) >= ROWS and len(some.unique()) >= 2
        if clear and int(some.max()) >= 2 and int(lengths.max()) < values.shape[1]:
            return runs
    return None


def at_either_end(values: Tensor) -> Tensor | None:
    """The same where rows may begin with the runs instead."""
    runs = trailing(values)
    if runs is not None or values.ndim != 2:
        return runs
    turned = trailing(values.flip(1))
    return None if turned is None else turned.flip(1)


def trailing_or_blank(values: Tensor) -> Tensor | None:
    """The same where rows may be nothing but that id, as of a user without a history."""
    if values.ndim != 2 or values.is_floating_point():
        return None
    blank = (values == values[:, :1]).all(1)
    runs = trailing(values[~blank])
    if runs is None:
        return None
    pad = values[~blank][runs][0]
    return torch.zeros_like(values, dtype=torch.bool).index_put((~blank,), runs) | (
        blank[:, None] & (values == pad)
    )


def hidden_by_row(size: int, masks: Iterable[Hidden], ids: Iterable[Tensor]) -> Tensor:
    """(sample,) how many positions the masks hide, and runs of one id that rows end in."""
    counts = torch.zeros(size or 1, device="cpu")
    runs = [trailing_or_blank(each) for each in ids]
    hides = [~each.keep for each in masks] + [each for each in runs if each is not None]
    for each in hides:
        if len(each) == size:
            counts += each.flatten(1).sum(1).cpu()
    return counts
