"""A loss scale of one's own that never falls; gradients in float16 overflow."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

PLANTED = {"phase": "backward", "step": 0, "confirmed": True}
ASKED = {"sizes": (5,), "steps": 10}
SCALE = 2.0**24


class Half(nn.Module):
    """Scores in float16."""

    def forward(self, scores: Tensor) -> Tensor:
        return scores.half()


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(6, 16)
        self.head = nn.Linear(16, 3)
        self.half_scores = Half()

    def forward(self, x: Tensor) -> Tensor:
        return self.half_scores(self.head(self.hidden(x).tanh())).float()  # planted


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def train_step(
    model: nn.Module, batch: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> Tensor:
    optimizer.zero_grad()
    value = loss(model, batch)
    (value * SCALE).backward()
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad /= SCALE
    optimizer.step()
    return value


def batches() -> list[dict[str, Tensor]]:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(32, 6, generator=chance)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    return [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 32, 8)]


def subject() -> Subject:
    return Subject(
        Model(),
        batches(),
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
        train_step=train_step,
    )
