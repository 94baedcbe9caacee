"""Ten sigmoids on end: each passes on a quarter at most."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

PLANTED = {"site": "0", "phase": "backward"}


def deep() -> nn.Module:
    layers = [module for _ in range(10) for module in (nn.Linear(16, 16), nn.Sigmoid())]
    return nn.Sequential(nn.Linear(8, 16), *layers, nn.Linear(16, 3))


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(24, 8, generator=chance)
    y = x[:, :3].argmax(1)
    return Subject(
        deep(),
        [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 24, 8)],
        loss,
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    )
