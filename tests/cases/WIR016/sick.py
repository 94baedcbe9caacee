"""The layers stand in a plain list."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
STAYS = "the plain list stays on the processor when the model is moved, and the loss raises"
PLANTED = {"site": "model", "phase": "update"}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(8, 64)
        self.layers = [nn.Linear(64, 64) for _ in range(2)]
        self.head = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.encoder(x).relu()
        for layer in self.layers:
            hidden = layer(hidden).relu()
        logits: Tensor = self.head(hidden)
        return logits


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["labels"])


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
