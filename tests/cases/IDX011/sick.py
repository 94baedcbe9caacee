"""An augmentation shuffles the rows that it is given, and not their labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "<loss>", "phase": "forward"}


def noisy(x: Tensor) -> Tensor:
    x = x[torch.randperm(len(x))]  # planted
    return x + 0.01 * torch.randn_like(x)


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    x = noisy(batch["x"]) if model.training else batch["x"]
    return nn.functional.cross_entropy(model(x), batch["kind"])


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
