"""Which module of a model is at work where code runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping

from torch import nn

from probes.modules import every_module


def names_of(model: nn.Module) -> dict[int, str]:
    """Every module's name by its id."""
    return {id(module): name for name, module in every_module(model)}


def running(names: Mapping[int, str]) -> str | None:
    """The innermost: every module's call has a frame with itself as `self`; None around them."""
    return next(at_work(names), None)


def at_work(names: Mapping[int, str]) -> Iterator[str]:
    """All that are, the innermost first, each as often as it has a frame."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        name = names.get(id(frame.f_locals.get("self")))
        if name is not None:
            yield name
