"""Hooks that a run put on modules: taken off again, as a model may put them on once and note it."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

from torch import nn

OF_CALLS = tuple(
    name
    for name in vars(nn.Module())
    if "hooks" in name and name.startswith(("_forward", "_backward"))
)
"""Where a module keeps the hooks that its calls run."""


def hooks_known(model: nn.Module) -> Callable[[], None]:
    """Called, the function it returns takes off every hook of a module that is not there now."""
    known: list[tuple[MutableMapping[Any, Any], frozenset[Any]]] = [
        (hooks, frozenset(hooks))
        for module in model.modules()
        for name in OF_CALLS
        if (hooks := vars(module).get(name)) is not None
    ]

    def take_off() -> None:
        for hooks, before in known:
            if len(hooks) > len(before) or not before.issuperset(hooks):
                for number in [each for each in hooks if each not in before]:
                    del hooks[number]

    return take_off
