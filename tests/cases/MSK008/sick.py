"""The decoder is fed the label that it is to give."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "model", "phase": "forward"}


class Writer(nn.Module):
    """Writes a text after another one, fed with its own labels."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 32)
        self.reader = nn.GRU(32, 32, batch_first=True)
        self.writer = nn.GRU(32, 32, batch_first=True)
        self.head = nn.Linear(32, 40)

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        _, state = self.reader(self.embedding(ids))
        given = labels
        out, _ = self.writer(self.embedding(given), state)
        logits: Tensor = self.head(out)
        return logits


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    logits = model(batch["ids"], batch["labels"])
    return nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 40, (24, 7), generator=chance)
    return Subject(
        Writer(),
        [{"ids": ids, "labels": ids.flip(1)[:, :5]}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
    )
