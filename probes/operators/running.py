"""Which module is at work where an operator runs, and what it is given."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from probes.modules import every_module


def names_of(model: nn.Module) -> dict[int, str]:
    """Every module's name by its id."""
    return {id(module): name for name, module in every_module(model)}


def running(names: Mapping[int, str]) -> str:
    """The innermost: every module's call has a frame with itself as `self`; else `<loss>`."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        name = names.get(id(frame.f_locals.get("self")))
        if name is not None:
            return name
    return "<loss>"


def tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """Those among the values, and in lists of them."""
    for each in values:
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, (tuple, list)):
            yield from (one for one in each if isinstance(one, Tensor))
