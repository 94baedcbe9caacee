"""A time between 0 and 1 is cut to a whole number, and scaled after."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "steps", "phase": "forward"}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.steps, self.body, self.head = nn.Embedding(20, 64), nn.Linear(8, 64), nn.Linear(64, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        step = self.steps(t.long() * 19)  # planted
        out: Tensor = self.head((self.body(x) + step).relu()).squeeze(-1)
        return out


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.mse_loss(model(batch["x"], batch["t"]), batch["y"])


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x, t = torch.randn(24, 8, generator=chance), torch.rand(24, generator=chance)
    return Subject(
        Net(),
        [{"x": x, "t": t, "y": x[:, 0] + t.round()}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
    )
