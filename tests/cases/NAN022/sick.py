"""The backward of a function of one's own divides by a number that is 0 in the fourth batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from probes import Subject

PLANTED = {"site": "size", "op": "aten.div", "phase": "backward", "step": 3}
ASKED = {"sizes": (5,), "steps": 10}


class Size(torch.autograd.Function):
    """The size of a number; its derivative is its sign."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.abs()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * x / x.abs()  # planted


class Sized(nn.Module):
    """Sizes, with a derivative of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return Size.apply(x)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(6))
        self.size = Sized()
        self.head = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.size(x * self.gain), x], -1))


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def batches() -> list[dict[str, Tensor]]:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(32, 6, generator=chance)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    x[28, 2] = 0.0
    return [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 32, 8)]


def subject() -> Subject:
    return Subject(
        Model(), batches(), loss, lambda model: torch.optim.Adam(model.parameters(), lr=0.01)
    )
