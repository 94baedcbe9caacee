"""What plain attributes of modules hold within them, to be put back in place."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from probes.states.attributes import DEEP, attributes, is_object
from probes.states.kept import let_go

LARGEST = 2**24  # elements of a tensor that is copied

Undo = Callable[[], None]


def remembered(model: nn.Module) -> Undo:
    """Called, the function it returns lets lists, mappings, objects and tensors hold what they do.

    Such as a cache that is filled, a list that is appended to, a tensor that is written in place,
    in attributes of any module; which object stands in an attribute is not looked at.
    """
    return _together([v for attribute, v in attributes(model) if not attribute.buffer])


def remembers(value: Any) -> Undo:
    """The same of a single value, whatever it stands in."""
    return _together([value])


def _together(values: list[Any]) -> Undo:
    undone: list[Undo] = []
    for value in values:
        _remember(value, DEEP, undone)

    def undo() -> None:
        for each in undone:
            each()

    return undo


def _remember(value: Any, deep: int, undone: list[Undo]) -> None:
    if isinstance(value, Tensor):
        if not isinstance(value, nn.Parameter):
            _remember_tensor(value, undone)
        return
    children: list[Any] = []
    if not deep:
        return
    if isinstance(value, dict):
        undone.append(_filled(value, value.update, dict(value)))
        children = list(value.values())
    elif isinstance(value, set):
        undone.append(_filled(value, value.update, set(value)))
    elif isinstance(value, (list, deque)):
        undone.append(_filled(value, value.extend, list(value)))
        children = list(value)
    elif type(value) is tuple:
        children = list(value)
    elif is_object(value):
        undone.append(_filled(vars(value), vars(value).update, dict(vars(value))))
        children = list(vars(value).values())
    for child in children:
        _remember(child, deep - 1, undone)


def _remember_tensor(tensor: Tensor, undone: list[Undo]) -> None:
    if tensor.is_inference() or tensor.layout is not torch.strided or tensor.numel() > LARGEST:
        return
    version, copy, leaf = tensor._version, tensor.detach().clone(), tensor.is_leaf

    def undo() -> None:
        if tensor._version != version and tensor.shape == copy.shape:
            tensor.data.copy_(copy)
        if leaf:
            let_go(tensor)

    undone.append(undo)


def _filled(container: Any, fill: Callable[[Any], None], before: Any) -> Undo:
    def undo() -> None:
        if not _is_same(container, before):
            container.clear()
            fill(before)

    return undo


def _is_same(now: Any, before: Any) -> bool:
    """Whether both hold the same objects."""
    if isinstance(now, dict):
        return list(now) == list(before) and all(now[key] is before[key] for key in before)
    if isinstance(now, set):
        return bool(now == before)
    return len(now) == len(before) and all(a is b for a, b in zip(now, before, strict=True))
