"""Moves what enters or leaves a module's call along a random direction, in a run of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from probes.batch import map_leaves
from probes.modules import every_module

Event = tuple[str, int, str]
"""A module's name, which of its calls, and `in` or `out`."""

MASK = 1e4  # numbers from here on hide what they are added to, and are no values


class Called:
    """While it is entered, every module's calls are told to `passed`, which may replace values.

    A module's `forward` is wrapped, and given back afterwards; no hook is registered.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._given = ExitStack()
        self._calls: Counter[str] = Counter()

    def passed(self, event: Event, value: Any) -> Any:
        """What goes on in the value's place."""
        return value

    def __enter__(self) -> Self:
        self._calls.clear()
        for name, module in every_module(self._model):
            own = vars(module)
            before = own.get("forward")
            own["forward"] = self._wrapped(name, module.forward)
            self._given.callback(_put_back, own, before)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._given.close()

    def _wrapped(self, name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            number = self._calls[name]
            self._calls[name] += 1
            args, kwargs = self.passed((name, number, "in"), (args, kwargs))
            return self.passed((name, number, "out"), forward(*args, **kwargs))

        return call


def _put_back(own: dict[str, Any], before: Any) -> None:
    own.pop("forward", None)
    if before is not None:
        own["forward"] = before


class Shifts(Called):
    """Adds `size` times a random direction to the floats of each event, scaled to their size.

    sizes: event to size. learn: the sizes are leaves, whose gradients are the events' slopes.
    """

    def __init__(
        self, model: nn.Module, sizes: Mapping[Event, float], learn: bool = False, seed: int = 0
    ) -> None:
        super().__init__(model)
        self._seed = seed
        self._sizes = {
            event: torch.tensor(size, dtype=torch.float64, requires_grad=learn, device="cpu")
            for event, size in sizes.items()
        }

    def slopes(self) -> dict[Event, float]:
        """What the backward pass left of each; 0 where nothing came."""
        return {e: 0.0 if s.grad is None else float(s.grad) for e, s in self._sizes.items()}

    def passed(self, event: Event, value: Any) -> Any:
        """The value, moved where the event is among the chosen."""
        size = self._sizes.get(event)
        if size is None:
            return value
        chance = torch.Generator().manual_seed(self._seed)
        return floats_mapped(value, lambda each: _moved(each, size, chance))


def _moved(value: Tensor, size: Tensor, chance: torch.Generator) -> Tensor:
    if value.numel() == 0 or value.layout is not torch.strided or not _are_values(value):
        return value
    noise = torch.randn(value.shape, generator=chance, dtype=torch.float64, device="cpu")
    scale = float(value.detach().double().square().mean().sqrt()) or 1.0
    return value + size.to(value.device) * (noise * scale).to(value.device, value.dtype)


def _are_values(value: Tensor) -> bool:
    largest = value.detach().abs().max()
    return bool(largest < MASK)


def floats_mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same containers, every float tensor in them changed."""

    def at(_: str, leaf: Any) -> Any:
        if isinstance(leaf, PackedSequence) and leaf.data.is_floating_point():
            return leaf._replace(data=change(leaf.data))
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            return change(leaf)
        return leaf

    return map_leaves(value, at)
