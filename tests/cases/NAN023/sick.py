"""A point of the fourth batch lies outside the unit disc, and has no height on the sphere."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

PLANTED = {"site": "sphere", "op": "aten.sqrt", "phase": "forward", "step": 3, "confirmed": True}
ASKED = {"sizes": (5,), "steps": 10}


class Sphere(nn.Module):
    """The third coordinate of points on the unit sphere."""

    def forward(self, points: Tensor) -> Tensor:
        return (1 - points.pow(2).sum(-1, keepdim=True)).sqrt()  # planted


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sphere = Sphere()
        self.head = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([x, self.sphere(x)], -1) * 3)


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def batches() -> list[dict[str, Tensor]]:
    chance = torch.Generator().manual_seed(0)
    x = torch.rand(32, 2, generator=chance) * 1.4 - 0.7
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    x[28] = 0.9
    return [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 32, 8)]


def subject() -> Subject:
    return Subject(
        Model(), batches(), loss, lambda model: torch.optim.Adam(model.parameters(), lr=0.01)
    )
