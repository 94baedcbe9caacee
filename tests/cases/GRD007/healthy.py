"""The same with a bias of zero."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

PLANTED = None


def net() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3))
    nn.init.constant_(model[0].bias, 0.0)
    return model


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(24, 8, generator=chance)
    y = torch.randint(0, 3, (24,), generator=chance)
    return Subject(
        net(),
        [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 24, 8)],
        loss,
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    )
