"""The power of a loud sample of the fourth batch outgrows float16."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

PLANTED = {"site": "power", "op": "aten.pow", "phase": "forward", "step": 3, "confirmed": True}
ASKED = {"sizes": (5,), "steps": 10}


class Power(nn.Module):
    """Log power of a signal."""

    def forward(self, x: Tensor) -> Tensor:
        return x.half().pow(2).float().log1p()  # planted


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(6, 16)
        self.power = Power()
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.power(self.hidden(x)))


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def batches() -> list[dict[str, Tensor]]:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(32, 6, generator=chance)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    x[28] = 2000.0
    return [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 32, 8)]


def subject() -> Subject:
    return Subject(
        Model(), batches(), loss, lambda model: torch.optim.Adam(model.parameters(), lr=0.01)
    )
