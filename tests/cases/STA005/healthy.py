"""The state is given back as it was returned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(8, 32)
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = c = torch.zeros(len(x), 32)
        states = []
        for each in x.unbind(1):
            h, c = self.cell(each, (h, c))
            states.append(h)
        logits: Tensor = self.head(torch.stack(states, 1).mean(1))
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
