"""The mask that all steps of a sequence share is drawn in every pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None


class Locked(nn.Module):
    """Drops the same units at every step of a sequence."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        mask = torch.bernoulli(torch.full((len(x), 1, x.shape[2]), 0.8)) / 0.8
        return x * mask


class Net(nn.Module):
    """One class for each sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.drop = nn.Embedding(50, 32), Locked()
        self.rnn, self.head = nn.GRU(32, 32, batch_first=True), nn.Linear(32, 3)

    def forward(self, ids: Tensor) -> Tensor:
        scores: Tensor = self.head(self.rnn(self.drop(self.embedding(ids)))[0].mean(1))
        return scores


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["ids"]), batch["labels"])


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 50, (48, 8), generator=chance)
    return Subject(
        Net(),
        [{"ids": part, "labels": part[:, 0] % 3} for part in ids.split(24)],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
    )
