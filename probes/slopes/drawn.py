"""Whether a loss draws numbers from what depends on parameters, as a policy draws actions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from probes.slopes.slope import Exact

DRAWS = frozenset(
    getattr(owner, name)
    for name in ("normal", "bernoulli", "multinomial", "poisson", "_standard_gamma", "binomial")
    for owner in (torch, Tensor)
    if hasattr(owner, name)
)


class _Draws(TorchFunctionMode):
    """Counts the draws that are told by a tensor how to fall."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [*args, *kwargs.values()]
        self.count += func in DRAWS and any(
            isinstance(each, Tensor) and each.is_floating_point() for each in given
        )
        return func(*args, **kwargs)


def drawn_from_parameters(exact: Exact) -> bool:
    """Whether the loss of a step does."""
    draws = _Draws()
    exact.gradient(around_loss=draws)
    return draws.count > 0
