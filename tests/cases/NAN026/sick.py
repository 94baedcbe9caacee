"""The label of a sample in the fourth batch is one that the mask forbids."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

PLANTED = {
    "site": "<loss>",
    "op": "aten.nll_loss_forward",
    "phase": "forward",
    "step": 3,
    "confirmed": True,
}
ASKED = {"sizes": (5,), "steps": 10}


class Allowed(nn.Module):
    """Scores of the classes that a sample may have: all but the third where x is negative."""

    def forward(self, scores: Tensor, x: Tensor) -> Tensor:
        hidden = torch.zeros_like(scores, dtype=torch.bool)
        hidden[:, 2] = x[:, 0] < 0
        return scores.masked_fill(hidden, float("-inf"))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
        self.allowed = Allowed()

    def forward(self, x: Tensor) -> Tensor:
        return self.allowed(self.body(x), x)


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])  # planted


def batches() -> list[dict[str, Tensor]]:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(32, 6, generator=chance)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    x[28, 0], y[28] = -1.0, 2
    return [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 32, 8)]


def subject() -> Subject:
    return Subject(
        Model(), batches(), loss, lambda model: torch.optim.Adam(model.parameters(), lr=0.01)
    )
