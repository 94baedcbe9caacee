"""The same state fades."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

PLANTED = None


class Carry(nn.Module):
    """A state that goes on from batch to batch."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("state", torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.state = 0.9 * self.state + 0.1 * x.mean(0)
        return x + self.state


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.carry = Carry()
        self.body = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.carry(x)) + self.body(x)


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(24, 8, generator=chance)
    x[:, 3] = 1.0
    y = torch.randint(0, 3, (24,), generator=chance)
    return Subject(
        Model(),
        [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 24, 8)],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
    )
