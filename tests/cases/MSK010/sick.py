"""The loss counts the padding that the attention does not see."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "<loss>", "phase": "forward"}


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 32)
        self.attention = nn.MultiheadAttention(32, 2, batch_first=True)
        self.head = nn.Linear(32, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = self.embedding(ids)
        read, _ = self.attention(hidden, hidden, hidden, key_padding_mask=~mask)
        logits: Tensor = self.head(hidden + read)
        return logits


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    logits = model(batch["ids"], batch["mask"])
    each = nn.functional.cross_entropy(logits.transpose(1, 2), batch["tags"], reduction="none")
    return (each * batch["loss_mask"]).sum() / batch["loss_mask"].sum()


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    mask = torch.arange(7) < torch.randint(2, 7, (24, 1), generator=chance)
    ids = torch.randint(1, 40, (24, 7), generator=chance) * mask
    scored = torch.arange(7).expand(24, 7) > 0
    return Subject(
        Tagger(),
        [{"ids": ids, "mask": mask, "tags": ids % 3, "loss_mask": scored}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
    )
