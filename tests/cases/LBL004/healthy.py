"""The features hold a column of two values that is not the label."""

from __future__ import annotations

import torch
from torch import nn

from probes import Subject

CHECK = True
PLANTED = None


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    features = torch.randn(40, 6, generator=chance)
    noise = torch.randn(40, generator=chance)
    labels = (features[:, 0] + 0.3 * noise > 0).long()
    features[:, 5] = (features[:, 0] > 0).float()
    model = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 2))
    return Subject(
        model,
        [{"features": features, "labels": labels}],
        lambda model, batch: nn.functional.cross_entropy(model(batch["features"]), batch["labels"]),
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
    )
