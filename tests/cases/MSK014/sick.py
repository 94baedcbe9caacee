"""Places are counted over the padding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "places", "phase": "forward"}


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(40, 32), nn.Embedding(10, 32)
        self.attention = nn.MultiheadAttention(32, 2, batch_first=True)
        self.head = nn.Linear(32, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = self.words(ids) + self.places((~mask).cumsum(1))
        read, _ = self.attention(hidden, hidden, hidden, key_padding_mask=~mask)
        logits: Tensor = self.head((hidden + read)[:, 0])
        return logits


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    logits = model(batch["ids"], batch["mask"])
    return nn.functional.cross_entropy(logits, batch["labels"])


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    mask = torch.arange(9) < torch.randint(2, 8, (24, 1), generator=chance)
    ids = torch.randint(1, 40, (24, 9), generator=chance) * mask
    return Subject(
        Reader(),
        [{"ids": ids, "mask": mask, "labels": ids[:, 0] % 3}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
    )
