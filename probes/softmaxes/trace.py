"""Sees every softmax whose result weighs values, whoever wrote the attention."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from probes.raised import source_here
from probes.running import running

SOFTMAX = {"aten::_softmax", "aten::_safe_softmax"}
CARRY = {  # the same numbers, perhaps in another shape
    *("aten::view", "aten::_unsafe_view", "aten::reshape", "aten::_reshape_alias", "aten::expand"),
    *("aten::transpose", "aten::permute", "aten::t", "aten::unsqueeze", "aten::squeeze"),
    *("aten::clone", "aten::alias", "aten::detach", "aten::_to_copy", "aten::native_dropout"),
}
REWEIGH = {  # other numbers in the same places, such as a mask after the softmax
    *("aten::mul", "aten::mul_", "aten::div", "aten::div_", "aten::where"),
    *("aten::masked_fill", "aten::masked_fill_"),
}
WEIGH = {"aten::bmm": (0, 1), "aten::mm": (0, 1), "aten::baddbmm": (1, 2), "aten::addmm": (1, 2)}
HIDDEN = -9000.0  # masks add -1e4 or less, -inf mostly; no score is so small by itself


@dataclass(slots=True)
class Softmax:
    """A softmax that was seen: where, over which scores, and with which weights.

    weights: as the softmax returned them, its own axis moved last.
    hidden: the same shape, true where the score was masked away. source: the user's own line.
    """

    site: str
    weights: Tensor
    hidden: Tensor
    axis: int
    shape: torch.Size
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Use:
    """A softmax that weighed values.

    operand: batch and queries of the matrix product it entered, None where it was a weighted sum.
    """

    softmax: Softmax
    weights: Tensor
    operand: tuple[int, int] | None


class SoftmaxTrace(TorchDispatchMode):
    """While it is entered, every softmax that weighs values becomes an entry of `uses`.

    A softmax weighs values when its result enters a matrix product over its own axis, directly
    or through dropout, masks, copies and changes of shape, or when it is multiplied onto values
    that are then summed over that axis. Fused attention kernels show nothing.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.uses: list[Use] = []
        self._names = {id(module): name or "model" for name, module in model.named_modules()}
        # by id, each with the tensor itself, so that the id is not given to another one
        self._carried: dict[int, tuple[Tensor, Softmax, Tensor]] = {}
        self._weighted: dict[int, tuple[Tensor, Softmax, Tensor]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The operator has run as it would have, and was looked at."""
        out = func(*args, **(kwargs or {}))
        name = func._schema.name
        if name in SOFTMAX:
            self._born(args, out)
        elif self._carried:
            self._follow(name, args, out)
        return out

    def _born(self, args: Sequence[Any], out: Tensor) -> None:
        scores, axis = args[0], args[1] % max(1, out.ndim)
        if out.ndim == 0:
            return
        softmax = Softmax(
            site=self.running(),
            weights=out.movedim(axis, -1),
            hidden=(scores <= HIDDEN).movedim(axis, -1),
            axis=axis,
            shape=out.shape,
            source=source_here(),
        )
        self._carried[id(out)] = (out, softmax, softmax.weights)

    def _follow(self, name: str, args: Sequence[Any], out: Any) -> None:
        if name in WEIGH:
            self._weigh(args, WEIGH[name])
        elif name == "aten::sum":
            self._sum(args)
        elif name in CARRY or name in REWEIGH:
            self._carry(name, args, out[0] if isinstance(out, tuple) else out)

    def _carry(self, name: str, args: Sequence[Any], out: Tensor) -> None:
        for each in args:
            if id(each) not in self._carried:
                continue
            _, softmax, weights = self._carried[id(each)]
            if name in CARRY or out.shape == each.shape:
                same_place = name in REWEIGH and each.shape == softmax.shape
                after = out.movedim(softmax.axis, -1) if same_place else weights
                self._carried[id(out)] = (out, softmax, after)
            elif name == "aten::mul":
                self._weighted[id(out)] = (out, softmax, weights)
            return

    def _weigh(self, args: Sequence[Any], places: tuple[int, int]) -> None:
        left, right = args[places[0]], args[places[1]]
        if id(left) in self._carried:
            self._use(self._carried[id(left)], left.shape[-1], _rows(left, left.shape[-2]))
        elif id(right) in self._carried:
            self._use(self._carried[id(right)], right.shape[-2], _rows(right, right.shape[-1]))

    def _sum(self, args: Sequence[Any]) -> None:
        found = self._weighted.get(id(args[0]))
        if found is not None and len(args) > 1 and args[1]:
            summed = math.prod(args[0].shape[axis] for axis in args[1])
            self._use(found, summed, None)

    def _use(
        self,
        found: tuple[Tensor, Softmax, Tensor],
        summed: int,
        operand: tuple[int, int] | None,
    ) -> None:
        _, softmax, weights = found
        known = any(use.softmax is softmax for use in self.uses)
        if summed == softmax.weights.shape[-1] and not known:
            self.uses.append(Use(softmax, weights.detach().clone(), operand))

    def running(self) -> str:
        """The innermost module at work."""
        return running(self._names) or "model"


def _rows(operand: Tensor, queries: int) -> tuple[int, int]:
    return (operand.shape[0] if operand.ndim == 3 else 1, queries)
