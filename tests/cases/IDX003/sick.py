"""Some samples' gold candidates are masked away."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "<data>", "phase": "data"}


class Pointer(nn.Module):
    """Points at one of a sample's candidates; those that are not there get no score."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(60, 32)
        self.reader = nn.GRU(32, 32, batch_first=True)

    def forward(self, ids: Tensor, candidates: Tensor, allowed: Tensor) -> Tensor:
        _, state = self.reader(self.embedding(ids))
        scores = (self.embedding(candidates) @ state[0][..., None])[..., 0]
        return scores.masked_fill(~allowed, -1e9)


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    scores = model(batch["ids"], batch["candidates"], batch["allowed"])
    return nn.functional.cross_entropy(scores, batch["labels"])


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    count = torch.arange(24) % 3 + 3
    return Subject(
        Pointer(),
        [
            {
                "ids": torch.randint(1, 60, (24, 7), generator=chance),
                "candidates": torch.randint(1, 60, (24, 5), generator=chance),
                "allowed": torch.arange(5) < count[:, None],
                "labels": torch.arange(24) % 5,
            }
        ],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
    )
