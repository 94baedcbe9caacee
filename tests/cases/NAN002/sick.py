"""The two halves of a sample in the fourth batch are equal, and their distance is a root of 0."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

PLANTED = {"site": "distance", "op": "aten.div", "phase": "backward", "step": 3, "confirmed": True}
ASKED = {"sizes": (5,), "steps": 10}


class Distance(nn.Module):
    """Distances of the two halves of each sample, (sample, 1)."""

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        squared = (one - two).pow(2).sum(-1, keepdim=True)
        return squared.sqrt()  # planted


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.distance = Distance()
        self.head = nn.Sequential(nn.Linear(9, 16), nn.Tanh(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.embed(x[:, :3]), self.embed(x[:, 3:])
        return self.head(torch.cat([self.distance(one, two), one], -1))


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def batches() -> list[dict[str, Tensor]]:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(32, 6, generator=chance)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    x[28, 3:] = x[28, :3]
    return [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 32, 8)]


def subject() -> Subject:
    return Subject(
        Model(), batches(), loss, lambda model: torch.optim.Adam(model.parameters(), lr=0.01)
    )
