"""Shifted windows are shifted once more, in place of back."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "block", "phase": "forward"}
Batch = dict[str, Tensor]


class Shifted(nn.Module):
    """Attention in windows of four tokens, which are shifted by two."""

    def __init__(self) -> None:
        super().__init__()
        self.ask, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.ask(x.roll(-2, 1)).view(-1, 4, 3, 16).unbind(2)
        within = self.out(F.scaled_dot_product_attention(q, k, v)).view(x.shape)
        return x + within.roll(-2, 1)  # planted


class Tagger(nn.Module):
    """A class for each of twelve tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 16), nn.Embedding(12, 16)
        self.block, self.head = Shifted(), nn.Linear(16, 3)

    def forward(self, ids: Tensor) -> Tensor:
        scores: Tensor = self.head(self.block(self.words(ids) + self.places.weight))
        return scores


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch["ids"]).flatten(0, 1), batch["tags"].flatten())


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(4):
        ids = torch.randint(0, 20, (10, 12), generator=chance)
        batches.append({"ids": ids, "tags": ids % 3})
    return Subject(Tagger(), batches, loss, lambda m: torch.optim.Adam(m.parameters(), lr=0.01))
