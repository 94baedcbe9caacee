"""Heads are joined where they stand, before the tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "model", "op": "aten.reshape", "phase": "forward"}


class Tagger(nn.Module):
    """A tag for every token, by attention of two heads written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.place = nn.Embedding(6, 32)
        self.project = nn.Linear(32, 96)
        self.back = nn.Linear(32, 32)
        self.head = nn.Linear(32, 4)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embedding(ids) + self.place.weight
        n, t, d = hidden.shape
        split = self.project(hidden).view(n, t, 3, 2, d // 2)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # 3 x (n, head, t, d / 2)
        weights = (query @ key.transpose(-1, -2) / 4).softmax(-1)
        joined = (weights @ value).reshape(n, t, d)  # planted
        tags: Tensor = self.head(hidden + self.back(joined))
        return tags


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    tags = model(batch["ids"])
    return nn.functional.cross_entropy(tags.flatten(0, 1), batch["labels"].flatten())


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    return Subject(
        Tagger(),
        [
            {
                "ids": torch.randint(1, 50, (24, 6), generator=chance),
                "labels": torch.randint(0, 4, (24, 6), generator=chance),
            }
        ],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
    )
