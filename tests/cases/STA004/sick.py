"""The state is carried over steps with its graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "model.hidden", "phase": "backward"}


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 32, batch_first=True)
        self.head = nn.Linear(32, 3)
        self.hidden: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        out, self.hidden = self.lstm(x, self.hidden)  # planted
        logits: Tensor = self.head(out[:, -1])
        return logits


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["labels"])


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    labels = torch.arange(24) % 3
    x = (
        torch.randn(24, 7, 8, generator=chance)
        + 2 * torch.nn.functional.one_hot(labels, 8)[:, None]
    )
    return Subject(
        Reader(),
        [{"x": x[:12], "labels": labels[:12]}, {"x": x[12:], "labels": labels[12:]}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
    )
