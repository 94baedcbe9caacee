"""Rows occur several times, each with the same label."""

from __future__ import annotations

import torch
from torch import nn

from probes import Subject

CHECK = True
PLANTED = None


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    features = torch.randn(40, 6, generator=chance)
    labels = torch.arange(40) // 4 % 3
    features = features[torch.arange(40) // 4]
    model = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 3))
    return Subject(
        model,
        [{"features": features, "labels": labels}],
        lambda model, batch: nn.functional.cross_entropy(model(batch["features"]), batch["labels"]),
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
    )
