"""Where a loss is heading: whether it still falls, what it tends to, and when it would be there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

LEAST = 8  # losses that tell a trend
STEADY = 0.98  # a quarter's fall over that of the quarter before, from which on it is a line


@dataclass(frozen=True, slots=True)
class Trend:
    """The means of the last three quarters of a course, and how many steps a quarter has.

    Each quarter's fall over that of the one before is taken to stay as it is: falls that stay the
    same are a line, and falls that shrink by a factor tend to a limit (Aitken's extrapolation).
    """

    second: float
    third: float
    last: float
    length: int

    @property
    def falls(self) -> float:
        """The share of it that the loss fell by from the third quarter to the last."""
        return (self.third - self.last) / max(abs(self.third), 1e-12)

    @property
    def ratio(self) -> float:
        """The last quarter's fall over that of the one before; 1 where it falls faster."""
        before, now = self.second - self.third, self.third - self.last
        return 1.0 if now >= before or before <= 0 else now / before

    @property
    def limit(self) -> float:
        """What the loss tends to; minus infinity where it falls on."""
        if self.third <= self.last:
            return self.last
        if self.ratio >= STEADY:
            return -math.inf
        return self.last - (self.third - self.last) * self.ratio / (1 - self.ratio)

    def needed(self, target: float) -> int | None:
        """How many more steps it would take to the target; None where it never comes there."""
        fall = self.third - self.last
        if self.last <= target:
            return 0
        if fall <= 0 or self.limit >= target:
            return None
        if self.ratio >= STEADY:
            return math.ceil((self.last - target) / fall * self.length)
        left = 1 - (self.last - target) * (1 - self.ratio) / (fall * self.ratio)
        return math.ceil(math.log(left) / math.log(self.ratio) * self.length)


def trend(losses: Sequence[float], passes: int = 1) -> Trend | None:
    """The trend of a course whose passes over the samples take so many steps; None of a short one.

    Losses that are not finite have none.
    """
    rounds = [fmean(losses[at : at + passes]) for at in range(0, len(losses) - passes + 1, passes)]
    length = len(rounds) // 4
    if len(rounds) < LEAST or not all(map(math.isfinite, rounds[-3 * length :])):
        return None
    second, third, last = (
        fmean(rounds[len(rounds) - k * length : len(rounds) - (k - 1) * length]) for k in (3, 2, 1)
    )
    return Trend(second, third, last, length * passes)
