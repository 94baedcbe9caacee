"""The sequences of the fourth batch have one step, of which a standard deviation is taken."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

PLANTED = {"site": "pool", "op": "aten.std", "phase": "forward", "step": 3, "confirmed": True}
ASKED = {"sizes": (5,), "steps": 10}


class Pool(nn.Module):
    """Mean and spread over time, (sample, 12)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.mean(1), x.std(1)], -1)  # planted


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool()
        self.head = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(x))


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def batches() -> list[dict[str, Tensor]]:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(32, 4, 6, generator=chance)
    y = (x[:, 0, 0] > 0).long() + (x[:, 0, 1] > 0).long()
    return [{"x": x[i : i + 8, : 4 if i < 24 else 1], "y": y[i : i + 8]} for i in range(0, 32, 8)]


def subject() -> Subject:
    return Subject(
        Model(), batches(), loss, lambda model: torch.optim.Adam(model.parameters(), lr=0.01)
    )
