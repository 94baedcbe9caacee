"""A learning rate far too large: the loss grows from step to step until it overflows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

PLANTED = {"site": "<loss>", "op": "aten.mse_loss", "phase": "forward", "step": 4}
ASKED = {"sizes": (5,), "steps": 10}


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.mse_loss(model(batch["x"])[:, 0], batch["y"])  # planted


def batches() -> list[dict[str, Tensor]]:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(32, 6, generator=chance)
    y = x[:, 0] - x[:, 1]
    return [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 32, 8)]


def subject() -> Subject:
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))
    return Subject(
        model, batches(), loss, lambda model: torch.optim.SGD(model.parameters(), lr=2.0)
    )
