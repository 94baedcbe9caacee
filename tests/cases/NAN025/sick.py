"""A target of the fourth batch needs seven frames, and there are six."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

PLANTED = {"site": "<loss>", "op": "aten._ctc_loss", "phase": "forward", "step": 3}
ASKED = {"sizes": (5,), "steps": 10}


class Frames(nn.Module):
    """Log-probabilities of 4 labels and the blank, (frame, sample, label)."""

    def forward(self, scores: Tensor) -> Tensor:
        return scores.log_softmax(-1).transpose(0, 1)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 5))
        self.frames = Frames()

    def forward(self, x: Tensor) -> Tensor:
        return self.frames(self.body(x))


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    frames, labels = torch.full((2, len(batch["y"])), 6), torch.full((len(batch["y"]),), 4)
    log = model(batch["x"])
    return nn.functional.ctc_loss(log, batch["y"], frames[0], labels)  # planted


def batches() -> list[dict[str, Tensor]]:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(32, 6, 6, generator=chance)
    y = torch.tensor([[1, 2, 3, 1]]).repeat(32, 1)
    y[28] = 4
    return [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 32, 8)]


def subject() -> Subject:
    return Subject(
        Model(), batches(), loss, lambda model: torch.optim.Adam(model.parameters(), lr=0.01)
    )
