"""The median of paired ratios, and how far it may be off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
CONFIDENCE = 95  # percent
AT_ONCE = 2**20  # numbers drawn at once


@dataclass(frozen=True, slots=True)
class Interval:
    """A median with its bootstrap interval of 95 %, and the number of ratios behind it."""

    median: float
    low: float
    high: float
    pairs: int

    @property
    def width(self) -> float:
        """Half of it: how far the median may be off to either side."""
        return (self.high - self.low) / 2


def interval(ratios: Sequence[float], seed: int = 0) -> Interval:
    """The ratios' median and the interval that medians of resampled ratios fall into.

    Percentile bootstrap (Efron and Tibshirani 1993, chapter 13).
    """
    values = np.asarray(ratios, np.float64)
    chance = np.random.default_rng(seed)
    rows = max(1, AT_ONCE // len(values))
    medians = np.concatenate(
        [
            np.median(chance.choice(values, (min(rows, RESAMPLES - done), len(values))), axis=1)
            for done in range(0, RESAMPLES, rows)
        ]
    )
    tail = (100 - CONFIDENCE) / 2
    low, high = np.percentile(medians, [tail, 100 - tail])
    return Interval(float(np.median(values)), float(low), float(high), len(values))
