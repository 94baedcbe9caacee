"""Outputs and labels are laid out flat in the same order."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None


class Tagger(nn.Module):
    """A tag for every token; time comes first inside, as an RNN likes it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.reader = nn.GRU(32, 24, bidirectional=True)
        self.head = nn.Linear(48, 4)

    def forward(self, ids: Tensor) -> Tensor:
        hidden, _ = self.reader(self.embedding(ids).transpose(0, 1))
        tags: Tensor = self.head(hidden).transpose(0, 1)  # (sample, time, tag)
        return tags


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    tags = model(batch["ids"])
    return nn.functional.cross_entropy(tags.reshape(-1, 4), batch["labels"].flatten())


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
