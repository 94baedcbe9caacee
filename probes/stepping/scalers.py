"""The calls of GradScalers, told before they run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.amp.grad_scaler import GradScaler

Told = Callable[[str, GradScaler, Any], None]
"""Of the method's name, the scaler and what it is called with, before it runs."""


@contextmanager
def told_of_scalers(told: Told) -> Iterator[None]:
    """Inside, `told` knows of each call of `scale`, `unscale_` and `step` of an enabled scaler.

    Of the outermost: `step` may call `unscale_`.
    """
    within: list[str] = []
    names = ("scale", "unscale_", "step")
    before = {name: getattr(GradScaler, name) for name in names}
    for name, own in before.items():
        setattr(GradScaler, name, _telling(name, own, told, within))
    try:
        yield
    finally:
        for name, own in before.items():
            setattr(GradScaler, name, own)


def _telling(
    name: str, own: Callable[..., Any], told: Told, within: list[str]
) -> Callable[..., Any]:
    def method(self: GradScaler, given: Any, *args: Any, **kwargs: Any) -> Any:
        if self.is_enabled() and not within:
            told(name, self, given)
        within.append(name)
        try:
            return own(self, given, *args, **kwargs)
        finally:
            within.pop()

    return method
