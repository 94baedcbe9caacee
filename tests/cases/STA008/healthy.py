"""The table is dropped when training goes on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None


class Reader(nn.Module):
    """Weighs what it reads by a table that is dear to make, and kept for evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.width = nn.Linear(8, 32)
        self.mix = nn.Linear(32, 32, bias=False)
        self.head = nn.Linear(32, 3)
        self.table: Tensor | None = None

    def train(self, mode: bool = True) -> Reader:
        self.table = None
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        table = self.mix.weight @ self.mix.weight.T
        if not self.training:
            if self.table is None:
                self.table = table.detach()
            table = self.table
        logits: Tensor = self.head(torch.tanh(self.width(x.mean(1)) @ table))
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
