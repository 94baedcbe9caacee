"""The masked sum is divided by the padded length."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "model", "phase": "forward"}


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 32)
        self.lstm = nn.LSTM(32, 48, batch_first=True)
        self.head = nn.Linear(48, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        out, _ = self.lstm(self.embedding(ids))
        pooled = (out * mask[..., None]).sum(1) / out.shape[1]
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
