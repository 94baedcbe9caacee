"""Labels are placed as if nothing stood before the words."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "<data>", "phase": "data"}
START, END, WORDS = 1, 2, 12


class Tagger(nn.Module):
    """A tag for every word, by what stands on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(3 + WORDS, 24)
        self.reader = nn.GRU(24, 32, batch_first=True, bidirectional=True)
        self.tags = nn.Linear(64, 3)

    def forward(self, ids: Tensor) -> Tensor:
        tags: Tensor = self.tags(self.reader(self.words(ids))[0])
        return tags


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    tags = model(batch["ids"])
    return nn.functional.cross_entropy(tags.flatten(0, 1), batch["tags"].flatten())


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    words = torch.randint(3, 3 + WORDS, (40, 6), generator=chance)
    edge = torch.ones(40, 1, dtype=torch.long)
    ids = torch.cat([START * edge, words, END * edge], 1)
    tags = torch.full_like(ids, -100)
    tags[:, :6] = words % 3
    return Subject(
        Tagger(),
        [{"ids": ids, "tags": tags}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
    )
