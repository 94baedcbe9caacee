"""Calls of a model through what `torch.compile` made of it, where a watch was not given that.

Hooks on the model are traced there and cannot call back. What is called instead, the `forward` of
what was returned or the model's own compiled call, is wrapped for a while.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn
from torch.compiler import is_compiling

from probes.traced import recompiled
from probes.wrapped import innermost, is_optimized, optimized

if TYPE_CHECKING:
    from probes.bus import Bus

IN_PLACE = "_compiled_call_impl"  # what `model.compile()` sets


class CompiledCalls:
    """Tells of the calls of a bus's model that its hooks cannot, also of what is compiled inside.

    Code is compiled anew when it begins, or when the compiler is loaded, as `recompiled` says.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._undo = ExitStack()
        self._loaded = False

    def __enter__(self) -> Self:
        """What is compiled already tells of its calls, and `torch.compile` makes what does."""
        self._load()
        bus = self._bus
        if not bus.told_of and bus.entered is None:
            return self
        for each in optimized(bus.model):
            if each is not bus.called:  # which has hooks
                self._hear(each, "forward")
        if getattr(bus.model, IN_PLACE, None) is not None:
            self._hear(bus.model, IN_PLACE)
        own = torch.compile

        @wraps(own)
        def compiled(model: Any = None, *args: Any, **kwargs: Any) -> Any:
            self._load(now=True)
            made = own(model, *args, **kwargs)
            return self._made(model, made)

        torch.compile = compiled
        self._undo.callback(_give_back, torch, "compile", compiled, own)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """All is as it was."""
        self._undo.close()
        self._loaded = False

    def _load(self, now: bool = False) -> None:
        """Hooks are guarded by code that is compiled from here on, if the compiler is there."""
        if now and not self._loaded:
            import_module("torch._dynamo")  # which the call that follows does as well
        if not self._loaded and "torch._dynamo" in sys.modules:
            self._undo.enter_context(recompiled())
            self._loaded = True

    def _made(self, model: Any, made: Any) -> Any:
        """What was made of the model tells of its calls."""
        own = self._bus.model
        if isinstance(made, nn.Module) and is_optimized(made) and innermost(made) is own:
            self._hear(made, "forward")
        elif getattr(model, "__self__", None) is own and model.__name__ == "_call_impl":
            told = self._told(made)
            self._undo.callback(_give_back, own, IN_PLACE, told, made)
            return told
        return made

    def _hear(self, owner: nn.Module, name: str) -> None:
        before = getattr(owner, name)
        told = self._told(before)
        setattr(owner, name, told)
        self._undo.callback(_give_back, owner, name, told, before)

    def _told(self, function: Callable[..., Any]) -> Callable[..., Any]:
        bus = self._bus

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if is_compiling():
                return function(*args, **kwargs)
            if bus.entered is not None and (bus.listening or bus.hushed):
                bus.entered()
            told = [calls for module, calls in bus.told_of if module is bus.called]
            for each in told:
                each.before(args, kwargs, bus.listening and torch.is_grad_enabled())
            output = None
            try:
                output = function(*args, **kwargs)
            finally:
                for each in told:
                    each.after(output)
            return output

        return call


def _give_back(owner: Any, name: str, ours: Any, before: Any) -> None:
    """It is what it was, unless somebody else has replaced it since."""
    if getattr(owner, name, None) is ours:
        setattr(owner, name, before)
