"""An offset into the columns is not moved on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "groups.0", "phase": "forward"}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.groups = nn.ModuleList(nn.Linear(width, 32) for width in (3, 2, 4))
        self.head = nn.Linear(96, 1)

    def forward(self, x: Tensor) -> Tensor:
        start, found = 0, []
        for layer in self.groups:
            assert isinstance(layer, nn.Linear)
            found.append(layer(x[:, start : start + layer.in_features]))  # planted
            start += 0
        out: Tensor = self.head(torch.cat(found, 1).relu()).squeeze(-1)
        return out


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.mse_loss(model(batch["x"]), batch["y"])


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(24, 9, generator=chance)
    return Subject(
        Net(),
        [{"x": x, "y": x[:, 1] - x[:, 3]}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
    )
