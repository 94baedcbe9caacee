"""The output lies between -1 and 1, and most targets beyond."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

PLANTED = {"site": None, "phase": None}
ASKED = {"sizes": (5,), "steps": 150}


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.mse_loss(nn.functional.softsign(model(batch["x"])), batch["y"])


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(24, 8, generator=chance)
    y = 3 * torch.randn(24, 1, generator=chance)
    return Subject(
        nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 1)),
        [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 24, 8)],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
    )
