"""One label in ten is of the other class."""

from __future__ import annotations

import torch
from torch import nn

from probes import Subject

CHECK = True
PLANTED = None


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    features = torch.randn(40, 6, generator=chance)
    labels = (features[:, 0] > 1.2).long()
    model = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 2))
    return Subject(
        model,
        [{"features": features, "labels": labels}],
        lambda model, batch: nn.functional.cross_entropy(model(batch["features"]), batch["labels"]),
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
    )
