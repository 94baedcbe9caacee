"""A residual is added to what the layer gives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.gate = nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept = x
        found = self.inner(x).relu()
        return found + kept, self.gate(found)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.block, self.head = nn.Linear(8, 32), Block(), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden, gate = self.block(self.body(x).relu())
        out: Tensor = self.head(hidden * gate.sigmoid()).squeeze(-1)
        return out


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.mse_loss(model(batch["x"]), batch["y"])


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(24, 8, generator=chance)
    return Subject(
        Net(),
        [{"x": x, "y": x[:, 1] - x[:, 3]}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
    )
