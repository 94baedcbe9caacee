"""What counting alone does to an accuracy, and what chance does to a run."""

from __future__ import annotations

import math
from collections.abc import Sequence

from probes.finding import out_of

SURE = 1.959964  # standard normal deviations: 95 %


def wilson(hits: float, count: float, deviations: float = SURE) -> tuple[float, float]:
    """The interval of the rate behind so many hits out of so many, 95 % by default.

    Wilson, E. B. (1927), Probable inference, the law of succession, and statistical inference,
    JASA 22:209-212: (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n).
    Raises ValueError where nothing was counted, or more hits than there can be.
    """
    if not count > 0 or not 0 <= hits <= count:
        raise ValueError(f"{hits:g} hits out of {count:g} have no interval")
    share, square = hits / count, deviations**2 / count
    middle = share + square / 2
    reach = deviations * math.sqrt(share * (1 - share) / count + square / (4 * count))
    low, high = (middle - reach) / (1 + square), (middle + reach) / (1 + square)
    return (0.0 if hits == 0 else low), (1.0 if hits == count else high)


def interval(hits: float, count: float) -> str:
    """`3 of 5, 95 % interval 0.23 to 0.88`."""
    low, high = wilson(hits, count)
    return f"{out_of(hits, count)}, 95 % interval {low:.2f} to {high:.2f}"


def counting(share: float, count: float) -> float:
    """The standard deviation of a share among so many draws: sqrt(p (1 - p) / n)."""
    return math.sqrt(max(0.0, share * (1 - share)) / count)


def swing(values: Sequence[float]) -> float:
    """The standard deviation around a straight line through the values; 0 of fewer than three."""
    n = len(values)
    if n < 3:
        return 0.0
    middle, mean = (n - 1) / 2, sum(values) / n
    spread = sum((i - middle) ** 2 for i in range(n))
    slope = sum((i - middle) * (v - mean) for i, v in enumerate(values)) / spread
    left = (v - mean - slope * (i - middle) for i, v in enumerate(values))
    return math.sqrt(sum(each**2 for each in left) / (n - 2))


def spread(ends: Sequence[float]) -> float:
    """How far apart the ends of runs lie that differ by their seed alone; 0 of fewer than two."""
    return max(ends) - min(ends) if len(ends) > 1 else 0.0
