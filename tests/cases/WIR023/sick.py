"""The positions are added where padding is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "positions", "phase": "forward"}


class Positions(nn.Module):
    table: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        angle = torch.arange(16)[:, None] / 100 ** (torch.arange(0, width, 2) / width)
        self.register_buffer("table", torch.cat([angle.sin(), angle.cos()], 1))

    def forward(self, where: Tensor) -> Tensor:
        return self.table[: where.shape[1]] * where[..., None]


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 32)
        self.positions = Positions(32)
        self.lstm = nn.LSTM(32, 48, batch_first=True)
        self.head = nn.Linear(48, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        out, _ = self.lstm(self.embedding(ids) + self.positions(1 - mask))
        pooled = (out * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        logits: Tensor = self.head(pooled)
        return logits


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    logits = model(batch["ids"], batch["attention_mask"])
    return nn.functional.cross_entropy(logits, batch["labels"])


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    mask = torch.arange(7) < torch.randint(2, 8, (24, 1), generator=chance)
    ids = torch.randint(1, 40, (24, 7), generator=chance) * mask
    return Subject(
        Reader(),
        [{"ids": ids, "attention_mask": mask.long(), "labels": ids[:, 0] % 3}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
    )
