"""What was not measured is clamped to 0 before the mask is taken."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "<loss>", "phase": "forward"}


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Of several yes or no questions a sample, some of which have no answer, which is -1."""
    logits = model(batch["x"])
    y = batch["y"].clamp(min=0)
    known = (y >= 0).float()  # planted
    each = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
    return (each * known).sum() / known.sum().clamp(min=1)


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(24, 12, generator=chance)
    y = (x @ torch.randn(12, 5, generator=chance) > 0).float()
    y[torch.rand(y.shape, generator=chance) < 0.3] = -1
    return Subject(
        nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 5)),
        [{"x": x, "y": y}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
        predict=lambda model, batch: model(batch["x"]),
    )
