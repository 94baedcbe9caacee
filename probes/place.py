"""In which module's own code a difference enters."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from probes.bus import Kind
from probes.compare import Comparison, Difference
from probes.modules import every_module

CODE = "<loss>"  # the subject's own functions, around the model


@dataclass(frozen=True, slots=True)
class Place:
    """site: the module, or `<loss>` for the code around the model. words: that, in a sentence."""

    site: str
    words: str


def place(found: Comparison, model: nn.Module) -> Place:
    """Where the first difference enters: a module's input differs by the code of its parent."""
    first = found.start
    if first is None:
        return Place(CODE, "in the subject's own code, after the model")
    return place_of(first, model)


def place_of(first: Difference, model: nn.Module) -> Place:
    """Where one difference enters."""
    return came_about(first.kind, first.module, model)


def came_about(kind: Kind, module: str, model: nn.Module) -> Place:
    """Where what a module takes, or gives, came about."""
    root, modules = next(iter(every_module(model)))[0], dict(every_module(model))
    if kind is Kind.OUTPUT:
        leaf = not any(True for _ in modules[module].children())
        after = "" if leaf else ", after the last module that it calls"
        return Place(module, f"in `{module}`{after}")
    if module == root:
        return Place(CODE, "in the subject's own code, before the model")
    parent = module.rpartition(".")[0]
    while parent and not _has_forward(modules.get(parent)):
        parent = parent.rpartition(".")[0]
    site = parent or root
    return Place(site, f"in the code of `{site}`, before it calls `{module}`")


def _has_forward(module: nn.Module | None) -> bool:
    return module is not None and not isinstance(module, (nn.ModuleList, nn.ModuleDict))
