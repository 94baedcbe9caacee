"""The covariance of a sample in the fourth batch has three equal eigenvalues."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

PLANTED = {"site": "axes", "op": "aten.div_", "phase": "backward", "step": 3, "confirmed": True}
ASKED = {"sizes": (5,), "steps": 10}


class Axes(nn.Module):
    """Principal axes of symmetric matrices, (sample, 9)."""

    def forward(self, matrices: Tensor) -> Tensor:
        return torch.linalg.eigh(matrices)[1].flatten(1)  # planted


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))
        self.axes = Axes()
        self.head = nn.Sequential(nn.Linear(18, 16), nn.Tanh(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.axes(x * self.gain), x.flatten(1)], -1))


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def batches() -> list[dict[str, Tensor]]:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(32, 3, 3, generator=chance)
    y = (x[:, 0, 0] > 0).long() + (x[:, 1, 1] > 0).long()
    x = x + x.mT
    x[28] = torch.eye(3)
    return [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 32, 8)]


def subject() -> Subject:
    return Subject(
        Model(), batches(), loss, lambda model: torch.optim.Adam(model.parameters(), lr=0.01)
    )
