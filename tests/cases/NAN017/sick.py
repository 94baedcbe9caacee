"""A row of the checkpoint that the model starts from is NaN."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

PLANTED = {"site": "embedded.linear.weight", "step": 0, "confirmed": True}
ASKED = {"sizes": (5,), "steps": 10}


class Embedded(nn.Module):
    """Features from a checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 16)
        saved = {"weight": torch.randn(16, 6) / 3, "bias": torch.zeros(16)}
        saved["weight"][4] = float("nan")
        self.linear.load_state_dict(saved)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).tanh()  # planted


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedded = Embedded()
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embedded(x))


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def batches() -> list[dict[str, Tensor]]:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(32, 6, generator=chance)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    return [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 32, 8)]


def subject() -> Subject:
    return Subject(
        Model(), batches(), loss, lambda model: torch.optim.Adam(model.parameters(), lr=0.01)
    )
