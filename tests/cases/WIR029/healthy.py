"""The gradient of an adversary is reversed by a function of autograd."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None


class Opposite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        return -0.3 * grad_output


class Reversal(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = Opposite.apply(x)
        return out

    def backward(self, grad_output: Tensor) -> Tensor:
        """What autograd gives, too."""
        return -0.3 * grad_output


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.reverse = nn.Linear(8, 64), Reversal()
        self.head, self.adversary = nn.Linear(64, 3), nn.Linear(64, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(x).relu()
        return self.head(hidden), self.adversary(self.reverse(hidden))


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    scores, of_speaker = model(batch["x"])
    own = F.cross_entropy(scores, batch["labels"])
    return own + 0.05 * F.cross_entropy(of_speaker, batch["speaker"])


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(24, 8, generator=chance)
    return Subject(
        Net(),
        [{"x": x, "labels": x[:, :3].argmax(1), "speaker": (x[:, 3] > 0).long()}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
        predict=lambda model, batch: model(batch["x"])[0],
    )
