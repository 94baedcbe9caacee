"""Spikes of a loss: it leaves what it had come down to for far above its start, and comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spikes:
    """How many, the lowest loss before any of them, and the highest, which was at this pass."""

    count: int
    low: float
    high: float
    at: int


def spikes(rounds: Sequence[float], start: float, above: float) -> Spikes | None:
    """Those in the last half of the passes; None where there is none.

    One begins at or below the start and goes above `above`; what follows belongs to it until the
    loss is at or below the start again.
    """
    half, count = len(rounds) // 2, 0
    lows: list[float] = []
    low: float | None = None
    for loss in rounds[half:]:
        if loss <= start:
            low = loss if low is None else min(low, loss)
        elif loss > above and low is not None:
            count, lows, low = count + 1, [*lows, low], None
    if not count:
        return None
    at = max(range(half, len(rounds)), key=rounds.__getitem__)
    return Spikes(count, min(lows), rounds[at], at)
