"""A recurrence with a spectral radius of 6 overflows after fifty steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

PLANTED = {"site": "reader.rnn", "phase": "forward", "step": 0}
ASKED = {"sizes": (5,), "steps": 10}


class Reader(nn.Module):
    """Reads 60 steps; `scale` is the spectral radius of its recurrent matrix."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.rnn = nn.RNN(2, 12, batch_first=True, nonlinearity="relu")
        with torch.no_grad():
            self.rnn.weight_hh_l0.copy_(scale * torch.eye(12))

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0][:, -1]  # planted


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.reader = Reader(6.0)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.reader(x))


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def batches() -> list[dict[str, Tensor]]:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(32, 60, 2, generator=chance)
    y = (x[:, -1, 0] > 0).long() + (x[:, -1, 1] > 0).long()
    return [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 32, 8)]


def subject() -> Subject:
    return Subject(
        Model(), batches(), loss, lambda model: torch.optim.Adam(model.parameters(), lr=0.01)
    )
