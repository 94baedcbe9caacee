"""A warm-up of no steps: the schedule computes 0 / 0 for the first learning rate."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from probes import Subject

ASKED = {"sizes": (5,), "steps": 60}
PLANTED = {"site": "<optimizer>", "phase": "update", "step": 0}


def warm_up(optimizer: Optimizer, steps: int) -> LRScheduler:
    return LambdaLR(optimizer, lambda step: float((torch.tensor(step) / steps).clamp(max=1.0)))


def batches() -> list[dict[str, Tensor]]:
    chance = torch.Generator().manual_seed(0)
    x, y = torch.randn(16, 6, generator=chance), torch.randint(0, 3, (16,), generator=chance)
    return [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in (0, 8)]


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def subject(steps: int = 0) -> Subject:
    return Subject(
        nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3)),
        batches(),
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
        schedule=lambda optimizer: warm_up(optimizer, steps),
    )
