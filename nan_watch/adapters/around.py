"""Methods of one object that are wrapped for a while, and given back as they were."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

_NONE = object()


class Around:
    """Wraps methods of objects, never of their classes; `undo` gives all of them back."""

    def __init__(self) -> None:
        self._kept: list[tuple[Any, str, Any]] = []

    def wrap(self, owner: Any, name: str, make: Callable[[Callable[..., Any]], Any]) -> None:
        """`owner.name` is what `make` makes of it, where there is one."""
        method = getattr(owner, name, None)
        if method is None:
            return
        self._kept.append((owner, name, vars(owner).get(name, _NONE)))
        setattr(owner, name, wraps(method)(make(method)))

    def undo(self) -> None:
        """Every method is what it was; one that somebody else has replaced since stays."""
        while self._kept:
            owner, name, before = self._kept.pop()
            if before is not _NONE:
                setattr(owner, name, before)
            else:
                vars(owner).pop(name, None)
