"""Where attention parts a row into pieces of its own, such as documents that share a row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from probes.softmaxes.attended import Attended

ROWS = 2  # rows that must have a border inside


def borders(attentions: Sequence[Attended], samples: int) -> Tensor | None:
    """(sample, place) true where no later place, nor this one, sees what stands before it.

    By all attention from places to the same places, in every head. None where there is none, where
    rows have no border but their start, or where all have the same, as blocks of a fixed size have.
    """
    found = None
    for each in attentions:
        rows, _, queries, keys = each.blocked.shape
        if queries != keys or queries < 4:
            continue
        if rows % samples:
            return None
        open_ = ~each.blocked.reshape(samples, -1, queries, keys).all(1)  # (sample, query, key)
        if found is not None and found.shape[1] != queries:
            return None
        own = _parts(open_)
        found = own if found is None else found & own
    if found is None:
        return None
    inner = found.clone()
    inner[:, 0] = False
    several = int(inner.any(1).sum()) >= ROWS and bool((inner != inner[:1]).any())
    return inner if several else None


def _parts(seen: Tensor) -> Tensor:
    """(sample, query, key) true where seen, to (sample, place): nothing crosses just before it."""
    size = seen.shape[1]
    places = torch.arange(size, device=seen.device)
    back = torch.where(seen, places[None, None], size).amin(2)  # the first key that each query sees
    ahead = back.flip(1).cummin(1).values.flip(1)  # and that any from there on sees
    return ahead >= places
