"""Errors of numbers that a loss writes out itself: the mean of differences, squared or not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from probes.batch import leaves
from probes.raised import source_here
from probes.scoring.calls import FEW, Call
from probes.subject import Batch

TAKEN = ("sub", "__sub__", "rsub", "__rsub__", "subtract")
CLOSE = 1e-5  # of the loss


@dataclass(frozen=True, slots=True)
class _Pair:
    one: Tensor
    other: Tensor
    line: str | None


class Differences(TorchFunctionMode):
    """While it is entered, keeps what is taken from one another, number by number."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs: list[_Pair] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The function has run; a plain difference of two tensors of one shape is kept."""
        out = func(*args, **(kwargs or {}))
        named = getattr(func, "__name__", "") in TAKEN and not kwargs and len(self.pairs) < FEW
        if named and len(args) == 2 and all(isinstance(each, Tensor) for each in args):
            one, other = (each.detach() for each in args)
            if one.shape == other.shape and one.numel() and out.is_floating_point():
                self.pairs.append(_Pair(one, other, source_here()))
        return out


def written_out(pairs: Sequence[_Pair], batch: Batch, total: float) -> list[Call]:
    """The one error of numbers that is the whole loss, as the call of torch's that it equals.

    One side is a leaf of the batch and the other is none. Empty where none or more are, or where
    the loss is something else.
    """
    if not math.isfinite(total) or total <= 0:
        return []
    calls = [call for pair in pairs for call in _calls(pair, batch, total)]
    return calls if len(calls) == 1 else []


def _calls(pair: _Pair, batch: Batch, total: float) -> Iterator[Call]:
    ours = [_held(each, batch) for each in (pair.one, pair.other)]
    if ours[0] == ours[1]:
        return
    scores, labels = (pair.other, pair.one) if ours[0] else (pair.one, pair.other)
    off = (scores - labels).double()
    errors = {"mse_loss": float(off.square().mean()), "l1_loss": float(off.abs().mean())}
    name = next((n for n, each in errors.items() if abs(each - total) <= CLOSE * total), None)
    if name is not None:
        counted = torch.ones_like(labels, dtype=torch.bool)
        yield Call(name, "value", scores, scores, labels, counted, value=total, line=pair.line)


def _held(tensor: Tensor, batch: Batch) -> bool:
    """Whether a leaf of the batch holds these very numbers, in this order."""
    return any(
        isinstance(leaf, Tensor)
        and leaf.numel() == tensor.numel()
        and torch.equal(leaf.detach().flatten().double(), tensor.flatten().double())
        for leaf in leaves(batch).values()
    )
