"""The lengths are taken after the padding."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from probes import Subject

CHECK = True
PLANTED = {"site": "<data>", "phase": "data"}


class Classifier(nn.Module):
    """A class for every packed text."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.rnn = nn.GRU(32, 64, batch_first=True)
        self.head = nn.Linear(64, 3)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(
            self.embedding(ids), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        scores: Tensor = self.head(self.rnn(packed)[1][-1])
        return scores


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["ids"], batch["lengths"]), batch["labels"])


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    lengths = torch.arange(24) % 6 + 3
    ids = torch.randint(1, 50, (24, 8), generator=chance) * (torch.arange(8) < lengths[:, None])
    labels = torch.randint(0, 3, (24,), generator=chance)
    return Subject(
        Classifier(),
        [{"ids": ids, "lengths": torch.full((24,), 8), "labels": labels}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
    )
