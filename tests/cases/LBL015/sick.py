"""What is hidden is hidden in the batch itself, before it is asked for."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "<loss>", "phase": "forward"}
MASK = 1


class Reader(nn.Module):
    """Tells the classes of each place by both sides of it."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(12, 32)
        self.sides = nn.GRU(32, 32, batch_first=True, bidirectional=True)
        self.head = nn.Linear(64, 12)

    def forward(self, ids: Tensor) -> Tensor:
        scores: Tensor = self.head(self.sides(self.words(ids))[0])
        return scores


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    ids, hidden = batch["ids"], batch["hidden"]
    ids[hidden] = MASK  # planted
    wanted = batch["ids"].masked_fill(~hidden, -100)
    return F.cross_entropy(model(ids).flatten(0, 1), wanted.flatten())


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    first = torch.randint(0, 10, (32, 1), generator=chance)
    ids = 2 + (first + torch.arange(14)) % 10
    hidden = torch.rand(ids.shape, generator=chance) < 0.2
    return Subject(
        Reader(),
        [{"ids": ids, "hidden": hidden}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
    )
