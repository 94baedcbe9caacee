"""The labels are the next ids."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None


class CausalReader(nn.Module):
    """Predicts the next id from the ids up to it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 48)
        self.place = nn.Embedding(8, 48)
        self.attention = nn.MultiheadAttention(48, 2, batch_first=True)
        self.head = nn.Linear(48, 40)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embedding(ids) + self.place(torch.arange(ids.shape[1]))
        later = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).triu(1)
        read, _ = self.attention(hidden, hidden, hidden, attn_mask=later, need_weights=False)
        logits: Tensor = self.head(hidden + read)
        return logits


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    logits = model(batch["ids"])
    return nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    text = torch.stack([torch.randperm(40, generator=chance)[:9] for _ in range(24)])
    text[:, 0] = torch.arange(24)
    return Subject(
        CausalReader(),
        [{"ids": text[:, :8], "labels": text[:, 1:]}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
    )
