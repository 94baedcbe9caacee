"""Tensors that a model keeps past what is registered: in plain lists, dicts and attributes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

DEPTH = 4  # containers in containers that are looked into


def unregistered(model: nn.Module) -> Iterator[tuple[str, Tensor, bool]]:
    """The name of each, it, and whether it is kept for training, and not in evaluation mode."""
    for place, module in model.named_modules():
        for name, value in vars(module).items():
            if name not in ("_parameters", "_buffers", "_modules"):
                yield from _in(value, f"{place}.{name}" if place else name, DEPTH)


def _in(value: Any, name: str, depth: int) -> Iterator[tuple[str, Tensor, bool]]:
    if isinstance(value, Tensor):
        yield name, value, True
    elif isinstance(value, nn.Module):
        for place, module in value.named_modules():
            for own, parameter in module.named_parameters(recurse=False):
                yield (
                    ".".join(each for each in (name, place, own) if each),
                    parameter,
                    (module.training),
                )
    elif depth and isinstance(value, (list, tuple)):
        for i, each in enumerate(value):
            yield from _in(each, f"{name}[{i}]", depth - 1)
    elif depth and isinstance(value, Mapping):
        for key, each in value.items():
            yield from _in(each, f"{name}[{key!r}]", depth - 1)
