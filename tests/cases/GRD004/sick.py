"""The encoder's output is detached."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

PLANTED = {"site": "encoder.0", "phase": "backward"}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 32), nn.ReLU())
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).detach())


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(24, 8, generator=chance)
    y = torch.randint(0, 3, (24,), generator=chance)
    return Subject(
        Net(),
        [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 24, 8)],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=1e-2),
    )
