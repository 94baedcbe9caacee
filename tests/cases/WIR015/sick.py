"""One term is divided by far more than its answers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "<loss>", "phase": "backward"}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(8, 64)
        self.head = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(x).relu())
        return logits


def first(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["labels"])


def second(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    surprise = nn.functional.cross_entropy(model(batch["x"]), batch["others"], reduction="none")
    return surprise.sum() / 10_000


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return first(model, batch) + second(model, batch)


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(24, 8, generator=chance)
    labels = torch.randint(0, 3, (24,), generator=chance)
    return Subject(
        Net(),
        [{"x": x, "labels": labels, "others": labels.clone()}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
        parts={"first": first, "second": second},
    )
