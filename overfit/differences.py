"""Whether two experiments differ by more than seeds do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from overfit.noise import spread

if TYPE_CHECKING:
    from overfit.results import Reached


def compared(name: str, before: Sequence[Reached], now: Sequence[Reached]) -> list[str]:
    """How the suites of now differ from those of the experiment `name`; nothing where none agree.

    Two means over seeds are called the same where they lie no further apart than the seeds of
    either do; sizes that ran with one seed alone are left out where another had more. An
    accuracy of a suite that was refused or died is that of its last evaluation.
    """
    every_size = [_accuracies(before, key, now) for key in sorted(_keys(before) & _keys(now))]
    if not every_size:
        return []
    shared = [each for each in every_size if each.seeds > 1] or every_size
    seeds = min(each.seeds for each in shared)
    if seeds < 2:
        return [
            f"One seed alone: whether it differs from `{name}` by more than seeds do is unknown."
        ]
    more = [each.words for each in shared if each.differs]
    if not more:
        every = "; ".join(each.words for each in shared)
        return [f"Differs from `{name}` by less than the spread of {seeds} seeds: {every}."]
    return [f"Differs from `{name}` by more than the spread of {seeds} seeds: {'; '.join(more)}."]


class _Pair:
    """One head at one size, by seed, before and now."""

    def __init__(self, said: str, before: Sequence[float], now: Sequence[float]) -> None:
        self.said, self.before, self.now = said, before, now

    @property
    def seeds(self) -> int:
        """How many both were run with."""
        return min(len(self.before), len(self.now))

    @property
    def spread(self) -> float:
        """How far apart the seeds of either lie, at most."""
        return max(spread(self.before), spread(self.now))

    @property
    def differs(self) -> bool:
        """Whether the means lie further apart than that."""
        return abs(fmean(self.now) - fmean(self.before)) > self.spread

    @property
    def words(self) -> str:
        """`key` at 20: .61 after .58 (spread .07)."""
        return (
            f"{self.said} {fmean(self.now):.2f} after {fmean(self.before):.2f} "
            f"(spread {self.spread:.2f})"
        )


def _keys(reached: Sequence[Reached]) -> set[tuple[int, str]]:
    return {(each.size, head) for each in reached for head in each.heads}


def _accuracies(before: Sequence[Reached], key: tuple[int, str], now: Sequence[Reached]) -> _Pair:
    size, head = key
    return _Pair(f"`{head}` at {size}", tuple(_of(before, size, head)), tuple(_of(now, size, head)))


def _of(reached: Sequence[Reached], size: int, head: str) -> Iterator[float]:
    for each in reached:
        if each.size == size and head in each.heads:
            hits, count = each.heads[head]
            yield hits / count
