"""What is later is hidden where True."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 32)
        self.attention = nn.MultiheadAttention(32, 2, batch_first=True)
        self.head = nn.Linear(32, 40)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embedding(ids)
        length = ids.shape[1]
        mask = torch.ones(length, length, dtype=torch.bool).triu(1)
        read, _ = self.attention(hidden, hidden, hidden, attn_mask=mask)
        logits: Tensor = self.head(hidden + read)
        return logits


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    logits = model(batch["ids"][:, :-1])
    return nn.functional.cross_entropy(logits.flatten(0, 1), batch["ids"][:, 1:].flatten())


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    start, step = torch.randint(0, 40, (2, 24, 1), generator=chance)
    ids = (start + step * torch.arange(9)) % 40
    return Subject(
        Reader(), [{"ids": ids}], loss, lambda model: torch.optim.Adam(model.parameters(), lr=0.02)
    )
