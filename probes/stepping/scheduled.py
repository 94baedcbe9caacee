"""Which schedules are stepped."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from torch.optim.lr_scheduler import LRScheduler


@contextmanager
def noted_schedules(note: Callable[[LRScheduler], None]) -> Iterator[None]:
    """Inside, `note` is called with each schedule that is stepped, but not by another."""
    depth = 0

    def noting(step: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(step)
        def noted(self: LRScheduler, *args: Any, **kwargs: Any) -> Any:
            nonlocal depth
            caller = sys._getframe(1).f_code.co_filename
            if not depth and not caller.endswith(
                "lr_scheduler.py"
            ):  # as the first, when it is made
                note(self)
            depth += 1
            try:
                return step(self, *args, **kwargs)
            finally:
                depth -= 1

        return noted

    before = {each: vars(each)["step"] for each in _classes(LRScheduler) if "step" in vars(each)}
    for each, step in before.items():
        each.step = noting(step)
    try:
        yield
    finally:
        for each, step in before.items():
            each.step = step


def _classes(of: type[Any]) -> Iterator[type[Any]]:
    yield of
    for each in of.__subclasses__():
        yield from _classes(each)
