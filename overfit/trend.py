"""Where a loss is heading: whether it still falls, what it tends to, and when it would be there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from overfit.noise import swing

LEAST = 8  # losses that tell a trend
KEPT = 0.75  # of the power that a loss fell by, to call it one
SURE = 3.0  # standard errors
SEEN = 0.02  # of the loss: a fall from quarter to quarter
STEADY = 0.98  # a quarter's fall over that of the quarter before, from which on it is a line


@dataclass(frozen=True, slots=True)
class Trend:
    """The means of the last three quarters of a course, and how many steps a quarter has.

    error: the standard error of the difference of two such means, by the swings around a line.

    Each quarter's fall over that of the one before is taken to stay as it is: falls that stay the
    same are a line, and falls that shrink by a factor tend to a limit (Aitken's extrapolation).
    """

    second: float
    third: float
    last: float
    length: int
    error: float = 0.0

    @property
    def is_sure(self) -> bool:
        """Whether the last fall is larger than what swings around a line would make of it."""
        return self.third - self.last > SURE * self.error

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

    def by_power(self, target: float) -> int | None:
        """As `needed`, where the loss falls as a power of the steps; None where it does not.

        The power of the last two quarters is at least `KEPT` of that of the two before, so that
        the course is no approach to a limit, and the fall is `SEEN` or more.
        """
        if min(self.second, self.third, self.last, target) <= 0 or self.falls < SEEN:
            return None
        before = math.log(self.second / self.third) / math.log(2.5 / 1.5)
        now = math.log(self.third / self.last) / math.log(3.5 / 2.5)
        if now < KEPT * before or now <= 0:
            return None
        steps = 3.5 * self.length * (self.last / target) ** (1 / now)
        return math.ceil(steps - 4 * self.length) if math.isfinite(steps) else None

    def at_this_pace(self, target: float) -> int:
        """How many more steps it would take at the pace of the last quarter."""
        return math.ceil((self.last - target) / (self.third - self.last) * self.length)

    def needed(self, target: float) -> int | None:
        """How many more steps it would take to the target; None where it never comes there."""
        fall = self.third - self.last
        if self.last <= target:
            return 0
        if fall <= 0 or self.limit >= target:
            return None
        if self.ratio >= STEADY:
            return self.at_this_pace(target)
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
    swings = max(swing(rounds[-length:]), swing(rounds[-2 * length : -length]))
    return Trend(second, third, last, length * passes, swings * math.sqrt(2 / length))
