"""A gate takes the log of an activation that is zero for the fourth batch: 0 x -inf is NaN."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

PLANTED = {
    "site": "entropy",
    "op": "aten.log",
    "phase": "forward",
    "step": 3,
    "batch": 3,
    "confirmed": True,
}
ASKED = {"sizes": (5,), "steps": 10}


class Entropy(nn.Module):
    """- p log p, which is NaN where p is 0."""

    def forward(self, p: Tensor) -> Tensor:
        return -p * p.log()  # planted


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(6, 16)
        self.entropy = Entropy()
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.entropy(self.hidden(x).sigmoid()))


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def batches(largest: float) -> list[dict[str, Tensor]]:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(32, 6, generator=chance)
    x[28, 2] = largest
    y = torch.randint(0, 3, (32,), generator=chance)
    return [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 32, 8)]


def subject() -> Subject:
    return Subject(
        Model(), batches(1e6), loss, lambda model: torch.optim.Adam(model.parameters(), lr=0.01)
    )
