"""An augmentation shuffles the rows that it is given, and their labels with them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    x, kind = batch["x"], batch["kind"]
    if model.training:
        order = torch.randperm(len(x))
        x, kind = x[order] + 0.01 * torch.randn_like(x), kind[order]
    return nn.functional.cross_entropy(model(x), kind)


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    return Subject(
        nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3)),
        [
            {
                "x": torch.randn(24, 6, generator=chance),
                "kind": torch.randint(0, 3, (24,), generator=chance),
            }
        ],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=1e-2),
    )
