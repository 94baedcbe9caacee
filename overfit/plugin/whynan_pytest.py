"""The pytest plugin of whynan: fixtures that say why a model does not train.

A module of its own name, installed beside the packages: pytest loads it into every test suite of an
environment, where `overfit` or `reports` may be somebody else's. It imports nothing of ours
before a fixture is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from itertools import count
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def assert_memorises(tmp_path: Path) -> Callable[..., None]:
    """`overfit.assert_memorises`, which leaves its run and its report in the test's `tmp_path`."""
    from overfit import assert_memorises

    return _kept(assert_memorises, tmp_path)


@pytest.fixture
def assert_healthy(tmp_path: Path) -> Callable[..., None]:
    """`overfit.assert_healthy`, which leaves its run and its report in the test's `tmp_path`."""
    from overfit import assert_healthy

    return _kept(assert_healthy, tmp_path)


def _kept(demand: Callable[..., None], folder: Path) -> Callable[..., None]:
    numbers = count(1)

    @wraps(demand)
    def demanded(*args: Any, **more: Any) -> None:
        __tracebackhide__ = True
        demand(*args, **({"out": folder / f"whynan-{next(numbers)}"} | more))

    return demanded
