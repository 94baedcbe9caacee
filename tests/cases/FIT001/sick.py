"""An LSTM tagger that has what it needs: its samples are memorised, which is a note."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Labels, Layout, Subject

PLANTED = {"site": None, "phase": None}


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.lstm = nn.LSTM(16, 32, batch_first=True, bidirectional=True)
        self.head = nn.Linear(64, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(ids))[0])


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["ids"]).transpose(1, 2), batch["tags"])


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 20, (32, 6), generator=chance)
    tags = torch.randint(0, 4, (32, 6), generator=chance)
    return Subject(
        Tagger(),
        [{"ids": ids[i : i + 8], "tags": tags[i : i + 8]} for i in range(0, 32, 8)],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
        predict=lambda model, batch: model(batch["ids"]),
        clip_norm=1.0,
        layout=Layout(labels=(Labels("tags", "output"),)),
    )
