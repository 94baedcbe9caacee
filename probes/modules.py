"""Which modules of a model are watched, and what they are called."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

STATISTICS = ("running_mean", "running_var")  # buffers that every evaluation reads


def watched_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Leaf modules, attention modules and the model itself, each once, under its first name.

    The model is called `model`; where it has a child of that name, `<model>`. Of a model that
    cannot be called, such as a list of modules, what can be called of it is among them.
    """
    outer = set(_outermost(model))
    for name, module in every_module(model):
        if module in outer or _is_leaf(module) or isinstance(module, nn.MultiheadAttention):
            yield name, module


def called_modules(model: nn.Module) -> Iterator[nn.Module]:
    """The model, or what can be called of it where it has no `forward`, as a list of modules."""
    for module in _outermost(model):
        if type(module).forward is not nn.Module.forward:
            yield module


def _outermost(model: nn.Module) -> Iterator[nn.Module]:
    """The model, and what can be called of it where it has no `forward`."""
    yield model
    if type(model).forward is nn.Module.forward:
        for child in model.children():
            yield from _outermost(child)


def every_module(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """All modules, each once, under its first name; the model as `watched_modules` calls it."""
    taken = any(name == "model" for name, _ in model.named_children())
    for name, module in model.named_modules():
        yield name or ("<model>" if taken else "model"), module


def _is_leaf(module: nn.Module) -> bool:
    return all(name == "parametrizations" for name, _ in module.named_children())
