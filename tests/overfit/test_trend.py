from __future__ import annotations

import math

import pytest

from overfit.trend import Trend, trend


def course(losses: list[float]) -> Trend:
    found = trend(losses)
    assert found is not None
    return found


def test_a_line_comes_to_its_target_in_time() -> None:
    line = course([2 - 0.01 * i for i in range(100)])
    assert line.needed(0.5) == pytest.approx(62, abs=14)  # from the last quarter's middle
    assert line.limit == -math.inf


def test_an_approach_to_a_limit_never_comes_below_it() -> None:
    falling = course([1 + 0.97**i for i in range(200)])
    assert falling.limit == pytest.approx(1.0, abs=1e-3)
    assert falling.needed(0.9) is None
    assert falling.by_power(0.9) is None


def test_a_power_of_the_steps_is_followed_where_a_limit_is_not() -> None:
    slow = course([10 / (10 + i) for i in range(400)])
    more = slow.by_power(0.01)
    assert more is not None
    assert 400 < more < 900  # it takes 990 in all


def test_what_swings_or_is_short_has_no_sure_fall() -> None:
    assert trend([1.0] * 5) is None
    assert trend([1.0] * 20 + [math.nan]) is None
    wild = course([1 + (0.5 if i % 2 else -0.5) - 1e-3 * i for i in range(100)])
    assert not wild.is_sure
    assert course([2 - 0.01 * i for i in range(100)]).is_sure


def test_passes_are_taken_together() -> None:
    by_batch = [3.0, 1.0] * 50
    found = trend(by_batch, passes=2)
    assert found is not None
    assert (found.second, found.third, found.last) == (2.0, 2.0, 2.0)
    assert found.length == 24
