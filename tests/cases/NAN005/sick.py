"""A `where` hides the root of zeros, whose derivative is infinite: 0 x inf on the way back."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

PLANTED = {"site": "root", "op": "aten.div", "phase": "backward", "step": 3, "confirmed": True}
ASKED = {"sizes": (5,), "steps": 10}


class Root(nn.Module):
    """Square roots of what is positive, 0 elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x.sqrt(), 0.0)  # planted


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(6))
        self.root = Root()
        self.head = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.root(x * self.gain.exp()))


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def batches() -> list[dict[str, Tensor]]:
    chance = torch.Generator().manual_seed(0)
    x = torch.rand(32, 6, generator=chance)
    y = (x[:, 0] > 0.5).long() + (x[:, 1] > 0.5).long()
    x[28, 2] = 0.0
    return [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 32, 8)]


def subject() -> Subject:
    return Subject(
        Model(), batches(), loss, lambda model: torch.optim.Adam(model.parameters(), lr=0.01)
    )
