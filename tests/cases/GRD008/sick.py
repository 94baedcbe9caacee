"""The columns of a table as they come: every tanh stands at one end of its range."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

PLANTED = {"site": "1", "phase": "forward"}


def net() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 3))
    nn.init.uniform_(model[2].weight, -0.05, 0.05)
    return model


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = 500 + 5 * torch.randn(24, 8, generator=chance)
    y = torch.arange(24) % 3
    return Subject(
        net(),
        [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 24, 8)],
        loss,
        lambda model: torch.optim.SGD(model.parameters(), lr=0.02),
    )
