"""The backward of a cube forgets a factor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "cube", "phase": "backward"}


class Cubed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # planted
        (x,) = ctx.saved_tensors
        return grad * 2 * x


class Cube(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        cubed: Tensor = Cubed.apply(x)
        return cubed


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(8, 64)
        self.cube = Cube()
        self.head = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.cube(self.encoder(x)))
        return logits


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["labels"])


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(24, 8, generator=chance)
    labels = torch.randint(0, 3, (24,), generator=chance)
    return Subject(
        Net(),
        [{"x": x, "labels": labels}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
    )
