"""A schedule of steps that is stepped every step."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from probes import Subject
from probes.stepping.paced import Pace, Paced

CHECK = True
PLANTED = None
EPOCHS, STEPS = 20, 10


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["labels"])


def schedule(optimizer: torch.optim.Optimizer) -> LRScheduler:
    own = CosineAnnealingLR(optimizer, EPOCHS * STEPS)
    pace = Pace(own, whole=EPOCHS * STEPS, epochs=EPOCHS)
    return Paced(optimizer, [pace], lambda each: each.step())


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(24, 8, generator=chance)
    labels = torch.randint(0, 3, (24,), generator=chance)
    return Subject(
        nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3)),
        [{"x": x, "labels": labels}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
        schedule=schedule,
    )
