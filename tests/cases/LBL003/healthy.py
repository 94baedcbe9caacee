"""The labels of padding are the ignored one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None


class Tagger(nn.Module):
    """A tag for every token of padded texts."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32, padding_idx=0)
        self.attention = nn.MultiheadAttention(32, 2, batch_first=True)
        self.head = nn.Linear(32, 4)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.embedding(ids)
        hide = attention_mask == 0
        read, _ = self.attention(hidden, hidden, hidden, hide, need_weights=False)
        tags: Tensor = self.head(hidden + read)
        return tags


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    tags = model(batch["ids"], batch["attention_mask"])
    return nn.functional.cross_entropy(tags.flatten(0, 1), batch["labels"].flatten())


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    mask = torch.arange(8) < (torch.arange(24) * 5 % 5 + 3 + torch.arange(24) % 4)[:, None]
    ids = torch.randint(2, 50, (24, 8), generator=chance) * mask
    tags = torch.randint(0, 4, (24, 8), generator=chance)
    labels = tags.masked_fill(~mask, -100)
    return Subject(
        Tagger(),
        [{"ids": ids, "attention_mask": mask.long(), "labels": labels}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
    )
