"""Modules that `predict` reaches by name, and that are no part of the model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from probes.subject import Subject

MODEL = "<model>"  # what the model is called among them


def modules_beside(subject: Subject) -> dict[str, nn.Module]:
    """By name, as `ema` or `ema.module`: globals or closures, or what stands in their attributes.

    Without what the model holds, and without what holds the model.
    """
    own = set(subject.model.modules())
    found: dict[str, nn.Module] = {}
    for name, value in _reached(subject.predict):
        of_it = getattr(value, "__dict__", {}) if not isinstance(value, type) else {}
        inner = {f"{name}.{key}": each for key, each in of_it.items()}
        for at, each in ({name: value} if isinstance(value, nn.Module) else inner).items():
            if isinstance(each, nn.Module) and own.isdisjoint(each.modules()):
                found[at] = each
    return found


def with_beside(model: nn.Module, beside: dict[str, nn.Module]) -> nn.Module:
    """One module that holds the model, under `<model>`, and the others; none of them is changed."""
    whole = nn.Module()
    whole.add_module(MODEL, model)
    for name, module in beside.items():
        *outer, last = name.split(".")
        at = whole
        for part in outer:
            at = _child(at, part)
        at._modules[last] = module
    return whole


def _child(module: nn.Module, name: str) -> nn.Module:
    return module._modules.setdefault(name, nn.Module())  # type: ignore[return-value]


def _reached(function: Callable[..., Any] | None) -> Iterator[tuple[str, Any]]:
    """What its code reads by name and that stands outside of it."""
    if not inspect.isfunction(function):
        return
    try:
        known = inspect.getclosurevars(function)
    except ValueError:  # a cell is still empty
        return
    yield from known.globals.items()
    yield from known.nonlocals.items()
