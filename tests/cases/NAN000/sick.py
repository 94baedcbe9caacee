"""The period of a sample in the fourth batch is 0, and the remainder of it NaN."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

PLANTED = {"site": "phase", "op": "aten.remainder", "phase": "forward", "step": 3, "batch": 3}
ASKED = {"sizes": (5,), "steps": 10}


class Phase(nn.Module):
    """Where within its period each sample stands."""

    def forward(self, time: Tensor, period: Tensor) -> Tensor:
        return torch.remainder(time, period)  # planted


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.phase = Phase()
        self.head = nn.Sequential(nn.Linear(7, 16), nn.Tanh(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        phase = self.phase(x[:, :1], x[:, 5:].abs())
        return self.head(torch.cat([phase, x], -1))


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def batches() -> list[dict[str, Tensor]]:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(32, 6, generator=chance)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    x[28, 5] = 0.0
    return [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 32, 8)]


def subject() -> Subject:
    return Subject(
        Model(), batches(), loss, lambda model: torch.optim.Adam(model.parameters(), lr=0.01)
    )
