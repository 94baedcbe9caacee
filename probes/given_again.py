"""A model that several functions call on equal values computes its output once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten

PLAIN = (Tensor, bool, int, float, str, type(None))


@dataclass(slots=True)
class Spared:
    """How many forward passes were spared."""

    count: int = 0


@contextmanager
def given_again(model: nn.Module) -> Iterator[Spared]:
    """Inside, the model gives the same output again where it is given what it was given last.

    Only where a call leaves no trace in the model or in a generator, which is not looked at here.
    It computes anew where values, modes, recording of gradients or autocast are others, where
    something was written into what it was given or gave, and where either holds more than tensors
    and plain values. A model whose `forward` is not its class's own is left alone.
    """
    spared = Spared()
    if "forward" in vars(model) or isinstance(model, torch.jit.ScriptModule):
        yield spared
        return
    last: list[_Call] = []

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        own = MethodType(type(self).forward, self)
        if self is not model:  # a copy that was made inside
            return own(*args, **kwargs)
        asked = _Tree.of((args, kwargs))
        state = _state(model)
        if last and last[0].answers(asked, state):
            spared.count += 1
            return last[0].gave
        gave = own(*args, **kwargs)
        known = asked, _Tree.of(gave)
        last[:] = [_Call(asked, known[1], gave, state)] if all(e.told for e in known) else []
        return gave

    setattr(model, "forward", MethodType(forward, model))  # noqa: B010  (a method, to mypy)
    try:
        yield spared
    finally:
        delattr(model, "forward")


@dataclass(frozen=True, slots=True)
class _Tree:
    """A tree of values, and how often each of its tensors had been written to."""

    leaves: list[Any]
    shape: TreeSpec
    versions: tuple[int, ...] = field(default=())
    told: bool = True

    @classmethod
    def of(cls, value: Any) -> _Tree:
        """told: false where it holds something that can change unseen."""
        leaves, shape = tree_flatten(value)
        told = all(isinstance(each, PLAIN) for each in leaves)
        tensors = [each for each in leaves if isinstance(each, Tensor)]
        if not told or any(each.is_inference() for each in tensors):
            return cls(leaves, shape, told=False)
        return cls(leaves, shape, tuple(each._version for each in tensors))

    @property
    def untouched(self) -> bool:
        """Whether no tensor was written to since."""
        tensors = [each for each in self.leaves if isinstance(each, Tensor)]
        return tuple(each._version for each in tensors) == self.versions

    def same(self, other: _Tree) -> bool:
        """Whether both hold equal values in the same places."""
        return self.shape == other.shape and all(map(_equal, self.leaves, other.leaves))


@dataclass(frozen=True, slots=True)
class _Call:
    """A call of the model."""

    asked: _Tree
    known: _Tree
    gave: Any
    state: tuple[Any, ...]

    def answers(self, asked: _Tree, state: tuple[Any, ...]) -> bool:
        """Whether the same would come of it."""
        untouched = self.asked.untouched and self.known.untouched
        return asked.told and untouched and self.state == state and self.asked.same(asked)


def _state(model: nn.Module) -> tuple[Any, ...]:
    """What else a call hangs on: the modes of modules and of torch."""
    kinds = {each.device.type for each in model.parameters()} or {"cpu"}
    casts = filter(torch.amp.is_autocast_available, sorted(kinds))
    cast = [(kind, torch.is_autocast_enabled(kind)) for kind in casts]
    modes = tuple(module.training for module in model.modules())
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), tuple(cast), modes


def _equal(one: Any, two: Any) -> bool:
    if not isinstance(one, Tensor) or not isinstance(two, Tensor):
        return type(one) is type(two) and bool(one == two)
    alike = (one.shape, one.dtype, one.device, one.layout, one.requires_grad) == (
        (two.shape, two.dtype, two.device, two.layout, two.requires_grad)
    )
    return alike and one.layout is torch.strided and torch.equal(one, two)
