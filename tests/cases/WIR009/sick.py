"""A column of predictions against a row of targets."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "<loss>", "phase": "forward"}


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    difference = model(batch["x"]) - batch["y"]  # planted
    return difference.square().mean()


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(24, 8, generator=chance)
    return Subject(
        nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 1)),
        [{"x": x, "y": x[:, 0] - x[:, 1]}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
    )
