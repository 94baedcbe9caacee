"""The cell of a joint is counted by rows of their own length."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None
ROWS, COLUMNS = 5, 8


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    heat = model(batch["image"])
    x, y = batch["joint"].unbind(-1)
    cell = y * COLUMNS + x
    return nn.functional.cross_entropy(heat.flatten(1), cell)


def subject() -> Subject:
    """A bright spot, whose place is to be told."""
    chance = torch.Generator().manual_seed(0)
    x = torch.randint(0, COLUMNS, (40,), generator=chance)
    y = torch.randint(0, ROWS, (40,), generator=chance)
    image = 0.1 * torch.randn(40, 1, ROWS, COLUMNS, generator=chance)
    image[torch.arange(40), 0, y, x] += 3.0
    model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 1, 3, padding=1))
    return Subject(
        model,
        [{"image": image, "joint": torch.stack([x, y], -1)}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
    )
