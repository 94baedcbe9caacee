from __future__ import annotations

import math
import random

import pytest

from overfit.noise import counting, interval, spread, swing, wilson
from probes.finding import out_of


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [(3, 5, 0.2307, 0.8824), (0, 5, 0.0, 0.4345), (5, 5, 0.5655, 1.0), (50, 100, 0.4038, 0.5962)],
)
def test_wilsons_interval(hits: float, count: float, low: float, high: float) -> None:
    assert wilson(hits, count) == pytest.approx((low, high), abs=1e-4)


def test_nothing_counted_has_no_interval() -> None:
    with pytest.raises(ValueError, match="0 hits out of 0"):
        wilson(0, 0)


def test_an_interval_says_its_count() -> None:
    assert interval(3, 5) == "3 of 5, 95 % interval 0.23 to 0.88"


def test_what_counting_alone_gives() -> None:
    assert counting(0.4, 7) == pytest.approx(0.185, abs=1e-3)  # seven db slots of one interaction


def test_a_line_does_not_swing_and_noise_does_by_its_deviation() -> None:
    assert swing([0.1 * i for i in range(50)]) == pytest.approx(0.0, abs=1e-9)
    chance = random.Random(0)
    assert swing([chance.gauss(i, 2.0) for i in range(2000)]) == pytest.approx(2.0, rel=0.1)
    assert swing([1.0, 2.0]) == 0.0


def test_the_spread_of_seeds_is_how_far_apart_they_end() -> None:
    seeds = [0.60, 0.72, 0.66]
    assert spread(seeds) == pytest.approx(0.12)
    assert math.isclose(spread([0.5]), 0.0)


@pytest.mark.parametrize(
    ("hits", "words"),
    [(15.0, "15 of 15"), (14.999, "14.99 of 15"), (6.400576, "6.4 of 15"), (math.nan, "nan of 15")],
)
def test_hits_are_told_without_rounding_up(hits: float, words: str) -> None:
    assert out_of(hits, 15.0) == words
