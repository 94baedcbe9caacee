"""Sees softmaxes whose result is multiplied with values along another axis than their own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from probes.modules import every_module
from probes.patch import SOFTMAX
from probes.raised import source_here
from probes.stepping.one_step import step_under
from probes.subject import Batch, Subject

PRODUCTS: tuple[Callable[..., Any], ...] = (
    *(torch.matmul, torch.bmm, torch.mm, Tensor.matmul, Tensor.bmm, Tensor.mm),
    *(Tensor.__matmul__, Tensor.__rmatmul__),
)
SAME: tuple[Callable[..., Any], ...] = (
    *(nn.functional.dropout, Tensor.float, Tensor.to, Tensor.type_as, Tensor.contiguous),
)

Place = tuple[int, tuple[int, ...], str | None]
"""The axis that sums to one, the shape, and the user's line."""


@dataclass(frozen=True, slots=True)
class _Born:
    """A softmax: its axis, counted from the end, and where it was taken."""

    axis: int
    site: str
    source: str | None


class _Contracted(TorchFunctionMode):
    """Follows softmaxes that have three axes or more into products of matrices.

    One over the last axis but one that is the first factor of a product is normalised along what
    stays; unless the values are its transpose's, as in slots that compete for what they read.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.found: dict[str, Place] = {}
        self._names = {id(module): name for name, module in every_module(model)}
        self._known = WeakTensorKeyDictionary()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The function's result; what it was given was looked at."""
        out = func(*args, **dict(kwargs or {}))
        first = args[0] if args else None
        if not isinstance(first, Tensor) or not isinstance(out, Tensor):
            return out
        if func in SOFTMAX and out.ndim > 2:
            dim = args[1] if len(args) > 1 else (kwargs or {}).get("dim")
            if isinstance(dim, int):
                axis = dim % out.ndim - out.ndim
                self._known[out] = _Born(axis, self._running(), source_here())
        elif func in SAME and first in self._known:
            self._known[out] = self._known[first]
        elif func in PRODUCTS and first in self._known:
            self._weigh(self._known[first], first)
        return out

    def _weigh(self, born: _Born, weights: Tensor) -> None:
        sums = weights.detach().double().sum(-1)
        if born.axis == -2 and bool(((sums - 1).abs() > 1e-2).any()):
            place = weights.ndim - 2, tuple(weights.shape), born.source
            self.found.setdefault(born.site, place)

    def _running(self) -> str:
        frame = sys._getframe(1)
        while frame.f_back is not None:
            frame = frame.f_back
            name = self._names.get(id(frame.f_locals.get("self")))
            if name is not None:
                return name
        return "<loss>"


def contracted(subject: Subject, batch: Batch) -> dict[str, Place]:
    """By site, the softmaxes of a training step that are weights along another axis."""
    mode = _Contracted(subject.model)
    step_under(subject, batch, mode)
    return mode.found
