"""A focal loss of a cross entropy that is a mean already."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "<loss>", "phase": "forward"}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(8, 64)
        self.head = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(x).relu())
        return logits


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    wrong = nn.functional.cross_entropy(model(batch["x"]), batch["labels"])  # planted
    right = torch.exp(-wrong)
    return ((1 - right) ** 2 * wrong).mean()


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(24, 8, generator=chance)
    labels = torch.randint(0, 3, (24,), generator=chance)
    return Subject(
        Net(),
        [{"x": x, "labels": labels}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
    )
