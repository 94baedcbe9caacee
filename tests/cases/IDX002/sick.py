"""Rows are sorted by length and not put back; the labels stand as they stood."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from probes import Subject

CHECK = True
PLANTED = {"site": "model", "phase": "forward"}


class Reader(nn.Module):
    """The last state of a packed LSTM says of what kind a text is."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 24, padding_idx=0)
        self.reader = nn.LSTM(24, 32, batch_first=True)
        self.head = nn.Linear(32, 4)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        down, order = lengths.sort(descending=True, stable=True)
        vectors = self.embedding(ids)[order]  # planted
        packed = pack_padded_sequence(vectors, down.cpu(), batch_first=True)
        _, (hidden, _) = self.reader(packed)
        state = hidden[-1]
        kinds: Tensor = self.head(state)
        return kinds


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["ids"], batch["lengths"]), batch["labels"])


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    lengths = torch.arange(24) * 5 % 7 + 3
    there = torch.arange(9) < lengths[:, None]
    return Subject(
        Reader(),
        [
            {
                "ids": torch.randint(2, 50, (24, 9), generator=chance) * there,
                "lengths": lengths,
                "labels": torch.randint(0, 4, (24,), generator=chance),
            }
        ],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
    )
