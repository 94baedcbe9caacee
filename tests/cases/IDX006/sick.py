"""A word has the id that the table keeps for padding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "embedding", "phase": "forward"}


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 32, padding_idx=1)
        self.head = nn.Linear(32, 4)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        vectors = self.embedding(ids) * mask[..., None]
        logits: Tensor = self.head(vectors.sum(1) / mask.sum(1, keepdim=True))
        return logits


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["ids"], batch["mask"]), batch["labels"])


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    mask = torch.arange(10) < torch.randint(5, 11, (24, 1), generator=chance)
    ids = torch.randint(1, 30, (24, 10), generator=chance) * mask
    return Subject(
        Tagger(),
        [{"ids": ids, "mask": mask.long(), "labels": ids[:, 0] % 4}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
    )
