"""Between which numbers lies what code makes, one by one, of the numbers of a bounded operator."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from probes.raised import source_here
from probes.scoring.bounds import HELD, Bounds, bounds

RISING = (
    *("add", "sub", "rsub", "mul", "div", "true_divide", "neg", "negative", "exp", "expm1"),
    *("sqrt", "log", "log1p", "log2", "log10"),
)
"""What rises everywhere with the one tensor that it is given, or falls everywhere."""

OF_ONE_SIGN = ("rdiv", "reciprocal", "pow")
"""The same, over numbers that are all of one sign."""


HELD_TO = frozenset(name.lower() for name in HELD)


class Ranges:
    """Follows the numbers of operators with bounds through what makes others of them, one by one.

    Such as `low + (high - low) * sigmoid(x)`, of numbers that no weight and no step can change.
    model: whose buffers are no such numbers, once they have been written to.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        self._known: dict[Any, Bounds] = {}
        self._learned = WeakTensorKeyDictionary()
        buffers = [] if model is None else list(model.buffers())
        self._buffers = [(each, each._version) for each in buffers]

    def of(self, output: Tensor) -> Bounds | None:
        """Between which numbers all of it lies; None where that is not known."""
        return bounds(output, self._known)

    def run(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The function's result, of which it is known from then on where it lies."""
        made = self._made(func, args, kwargs)
        out = func(*args, **kwargs)
        if isinstance(out, Tensor):
            if made is not None and out.grad_fn is not None:
                self._known[out.grad_fn] = made
            given = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
            if not out.requires_grad and any(map(self.is_learned, given)):
                self._learned[out] = True
        return out

    def is_learned(self, tensor: Tensor) -> bool:
        """Whether weights or steps may change it."""
        if tensor.requires_grad or tensor in self._learned:
            return True
        return any(
            tensor.data_ptr() == each.data_ptr() and each._version != version
            for each, version in self._buffers
        )

    def _made(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Bounds | None:
        name = getattr(func, "__name__", "").strip("_")
        if name not in RISING + OF_ONE_SIGN or kwargs.get("out") is not None:
            return None
        given = [*args, *kwargs.values()]
        moving = [i for i, a in enumerate(args) if isinstance(a, Tensor) and a.requires_grad]
        others = [a for i, a in enumerate(given) if isinstance(a, Tensor) and i not in moving]
        if len(moving) != 1 or any(map(self.is_learned, others)):
            return None
        place = moving[0]
        within = self.of(args[place])
        turned = name in OF_ONE_SIGN or (name in ("div", "true_divide") and place == 1)
        if within is None or (turned and within.least < 0 < within.most):
            return None
        if within.op in HELD_TO and any(each.numel() > 1 for each in others):
            return None  # held near what each has of its own, as a value near an older one is
        ends = [
            func(*(_level(a, end) if i == place else a for i, a in enumerate(args)), **kwargs)
            for end in (within.least, within.most)
        ]
        least = min(float(each.min()) for each in ends)
        most = max(float(each.max()) for each in ends)
        if math.isnan(least) or math.isnan(most) or not least < most:
            return None
        return replace(within, least=least, most=most, scaled=source_here() or within.scaled)


def _level(tensor: Tensor, number: float) -> Tensor:
    return torch.full_like(tensor, number, requires_grad=False)
