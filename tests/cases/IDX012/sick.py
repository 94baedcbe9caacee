"""A sigmoid gives 0 to 1, and the labels are standardised."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "<loss>", "phase": "forward", "op": "sigmoid"}


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    price = model(batch["x"]).sigmoid().squeeze(-1)
    return nn.functional.smooth_l1_loss(price, batch["price"])  # planted


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(24, 6, generator=chance)
    return Subject(
        nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1)),
        [{"x": x, "price": (x[:, 0] + x[:, 1]) / 2**0.5}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=1e-2),
    )
