"""The gradients are set to zero before the backward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from probes import Subject

PLANTED = None


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def train_step(model: nn.Module, batch: dict[str, Tensor], optimizer: Optimizer) -> Tensor:
    optimizer.zero_grad()
    value = loss(model, batch)
    value.backward()
    optimizer.step()
    return value


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(24, 8, generator=chance)
    y = torch.randint(0, 3, (24,), generator=chance)
    return Subject(
        nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 3)),
        [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 24, 8)],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=1e-2),
        train_step=train_step,
    )
