"""Pairs that match are 1, and others -1."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 16))
        self.right = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 16))

    def forward(self, one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
        return self.left(one), self.right(two)


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    one, two = model(batch["one"], batch["two"])
    wanted = 2 * batch["match"] - 1
    return nn.functional.cosine_embedding_loss(one, two, wanted)


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    one = torch.randn(24, 8, generator=chance)
    match = (torch.arange(24) % 2).float()
    other = torch.randn(24, 8, generator=chance)
    two = torch.where(match[:, None] > 0, one, other)
    return Subject(
        Towers(),
        [{"one": one, "two": two, "match": match}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
    )
