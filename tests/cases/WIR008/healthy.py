"""The learning rate warms up from zero."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from probes import Subject

CHECK = True
PLANTED = None


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["labels"])


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(24, 8, generator=chance)
    labels = torch.randint(0, 3, (24,), generator=chance)
    return Subject(
        nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3)),
        [{"x": x, "labels": labels}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
        schedule=lambda over: LambdaLR(over, lambda step: min(1.0, step / 5)),
    )
