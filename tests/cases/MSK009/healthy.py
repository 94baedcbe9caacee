"""Places go on where the cache ends."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None


class CausalReader(nn.Module):
    """Predicts the next id from those up to it; keeps what it has read."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 48)
        self.place = nn.Embedding(8, 48)
        self.query = nn.Linear(48, 48)
        self.head = nn.Linear(48, 40)

    def forward(self, ids: Tensor, cache: Tensor | None = None) -> tuple[Tensor, Tensor]:
        past, steps = 0 if cache is None else cache.shape[1], ids.shape[1]
        hidden = self.embedding(ids) + self.place(torch.arange(past, past + steps))
        known = hidden if cache is None else torch.cat([cache, hidden], 1)
        later = torch.ones(steps, past + steps, dtype=torch.bool).triu(past + 1)
        scores = self.query(hidden) @ known.transpose(1, 2) / 48**0.5
        read = scores.masked_fill(later, float("-inf")).softmax(-1) @ known
        return self.head(hidden + read), known


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    logits, _ = model(batch["ids"])
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
        predict=lambda model, batch: model(batch["ids"])[0],
    )
