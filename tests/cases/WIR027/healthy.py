"""A dropout is given what is to be dropped."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None
KEPT = 0.95


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["kind"])


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(24, 6, generator=chance)
    return Subject(
        nn.Sequential(nn.Linear(6, 64), nn.Dropout(1 - KEPT), nn.ReLU(), nn.Linear(64, 3)),
        [{"x": x, "kind": torch.randint(0, 3, (24,), generator=chance)}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=1e-2),
    )
