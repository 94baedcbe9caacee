"""How what an attention blocks differs from what a mask hides: inverted, turned, of another row."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from probes.masking.hidden import Hidden
from probes.softmaxes.attended import Attended

INVERTED = "is inverted: it hides what it should show"
ON_QUERIES = "lies on the axis of the queries, not of the keys"


def pattern(each: Hidden, one: Attended) -> str | None:
    """What was done to the mask, in words; None where it is obeyed, or where nothing fits.

    Only an exact fit counts, over all rows, heads and keys.
    """
    keep = each.keep.flatten(0, -2)  # (row, key)
    blocked = _in_rows(one.blocked, keep)
    if blocked is None or bool(keep.all()) or not bool(keep.any()):
        return None
    length = keep.shape[1]
    asking = keep if blocked.shape[2] == length else keep.new_ones(len(keep), blocked.shape[2])
    never = (blocked | ~asking[:, None, :, None]).all(2)  # (row, head, key), by any visible query
    hides = ~keep[:, None]
    if bool((never | ~hides).all()):
        return None
    for words, expected in _keys(keep, blocked.shape[1]):
        if torch.equal(never, expected.expand_as(never)):
            return words
    if blocked.shape[2] == length:
        for words, expected in _pairs(keep):
            if torch.equal(blocked, expected.expand_as(blocked)):
                return words
        if _lies_on_queries(blocked, keep):
            return ON_QUERIES
    return None


def _lies_on_queries(blocked: Tensor, keep: Tensor) -> bool:
    """Whether padded queries see nothing, but for themselves, and others what all of them see.

    As where the mask is laid along the queries, beside one that is the same for all samples, such
    as a causal one: nothing of it is left for the queries that are visible.
    """
    asks, itself = keep[:, None, :, None], torch.eye(keep.shape[1], device=keep.device).bool()
    common = (blocked | ~asks).all(0)
    plain = torch.equal(blocked & asks, common & asks)
    silent = bool((blocked | asks | itself).all())
    return plain and silent and bool((asks & ~blocked & ~keep[:, None, None]).any())


def _in_rows(blocked: Tensor, keep: Tensor) -> Tensor | None:
    """(row, head, query, key) with the mask's rows; None where it is of something else."""
    rows = len(keep)
    if blocked.shape[-1] != keep.shape[1] or not rows or len(blocked) % rows:
        return None
    return blocked.reshape(rows, -1, *blocked.shape[2:]) if len(blocked) != rows else blocked


def _keys(keep: Tensor, heads: int) -> Iterator[tuple[str, Tensor]]:
    """(row, 1 or head, key): keys that would be blocked by a mask that something was done to."""
    rows, hides = len(keep), ~keep
    yield INVERTED, keep[:, None]
    for by in (1, -1):
        yield f"is shifted by {by:+d} along its keys", _shifted(hides, by)[:, None]
    for by in range(1, rows):
        yield "hides by the row of another sample", hides.roll(by, 0)[:, None]
    if heads > 1:
        mixed = torch.arange(rows * heads, device=keep.device) % rows
        name = "is repeated over samples where its heads are to be next to each other"
        yield name, hides[mixed].view(rows, heads, -1)


def _shifted(hides: Tensor, by: int) -> Tensor:
    if by > 0:
        return torch.cat([hides[:, :1], hides[:, :-1]], 1)
    return torch.cat([hides[:, 1:], hides[:, -1:]], 1)


def _pairs(keep: Tensor) -> Iterator[tuple[str, Tensor]]:
    """(row, 1, query, key) that would be blocked."""
    hides, length = ~keep, keep.shape[1]
    yield ON_QUERIES, hides[:, None, :, None]
    if len(keep) == length:
        yield "is broadcast so that samples count as queries", hides[None, None]
        yield "is broadcast so that samples count as keys", hides.T[None, None]
