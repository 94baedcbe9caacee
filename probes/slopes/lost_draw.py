"""Numbers that are drawn by parameters which learn nothing from what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from probes.raised import source_here
from probes.slopes.slope import Exact


@dataclass(frozen=True, slots=True)
class LostDraw:
    """Where `torch.normal` draws by a mean or a scale that has a gradient. source: the line."""

    source: str | None


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A draw: by which tensors, and what fell, as a leaf that can be asked for its gradient."""

    by: tuple[Tensor, ...]
    fell: Tensor
    source: str | None


class _Draws(TorchFunctionMode):
    """Lists the normal draws by tensors with a gradient; what they give is a leaf of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[_Drawn] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function has run as it would have."""
        given = kwargs or {}
        out = func(*args, **given)
        by = tuple(
            _with_graph(each)
            for each in (*args, *given.values())
            if isinstance(each, Tensor) and each.requires_grad
        )
        if func is torch.normal and by and isinstance(out, Tensor):
            out = out.detach().requires_grad_(True)
            self.found.append(_Drawn(by, out, source_here()))
        return out


def _with_graph(tensor: Tensor) -> Tensor:
    """What the tensor is a view of, where it was made without a graph."""
    base = tensor._base
    return base if tensor.grad_fn is None and base is not None else tensor


def lost_draw(exact: Exact) -> LostDraw | None:
    """The first draw that the loss hangs on, and of which its mean and scale learn nothing.

    By the score of a draw, as in a policy gradient, they do: then what fell meets them in the
    loss. So they do where what reads the draw reads them as well.
    """
    draws, found = _Draws(), list[LostDraw]()

    def look(loss: Tensor) -> None:
        learned = [each for each in exact.model.parameters() if each.requires_grad]
        found.extend(LostDraw(each.source) for each in draws.found if _is_lost(loss, each, learned))

    try:
        exact.gradient(around_loss=draws, look=look)
    except Exception:  # such as an operator without a second derivative
        return None
    return found[0] if found else None


def _is_lost(loss: Tensor, drawn: _Drawn, learned: Sequence[Tensor]) -> bool:
    """Whether the loss follows what fell, and the slope along mean and scale does not."""
    felt, *grads = torch.autograd.grad(
        loss, [drawn.fell, *drawn.by], create_graph=True, retain_graph=True, allow_unused=True
    )
    if felt is None or not bool(felt.any()):
        return False
    before = torch.autograd.grad(
        torch.stack([each.sum() for each in drawn.by]).sum(),
        learned,
        retain_graph=True,
        allow_unused=True,
    )
    behind = [p for p, grad in zip(learned, before, strict=True) if grad is None]
    slope = sum((g.sin().sum() for g in grads if g is not None), torch.zeros(()))
    if not slope.requires_grad:
        return True
    mixed = torch.autograd.grad(slope, [drawn.fell, *behind], retain_graph=True, allow_unused=True)
    return not any(grad is not None and bool(grad.any()) for grad in mixed)
