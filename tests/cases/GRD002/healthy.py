"""The same sigmoids beside a residual path."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

PLANTED = None


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.sigmoid(self.lin(x)) - 0.5


def deep() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), *(Residual() for _ in range(10)), nn.Linear(16, 3))


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(24, 8, generator=chance)
    y = x[:, :3].argmax(1)
    return Subject(
        deep(),
        [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 24, 8)],
        loss,
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    )
