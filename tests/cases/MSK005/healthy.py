"""A sample without a memory reads zeros, as is declared."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Layout, Mask, Subject

CHECK = True
PLANTED = None


class Reader(nn.Module):
    """Classifies its ids after a look into a memory, which some samples do not have."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 32)
        self.attention = Attention()
        self.head = nn.Linear(64, 3)

    def forward(self, ids: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        asked = self.embedding(ids).mean(1, keepdim=True)
        found = self.attention(asked, self.embedding(memory), mask)
        logits: Tensor = self.head(torch.cat([asked, found], -1)[:, 0])
        return logits


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(32, 32)
        self.key = nn.Linear(32, 32, bias=False)

    def forward(self, asked: Tensor, read: Tensor, mask: Tensor) -> Tensor:
        scores = self.query(asked) @ self.key(read).transpose(1, 2) / 32**0.5
        scores = scores.masked_fill(~mask[:, None], torch.finfo(scores.dtype).min)
        out: Tensor = scores.softmax(-1) @ (read * mask[..., None])
        return out


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    logits = model(batch["ids"], batch["memory"], batch["memory_mask"])
    return nn.functional.cross_entropy(logits, batch["labels"])


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    mask = torch.arange(5) < (torch.arange(24)[:, None] % 6)
    ids = torch.randint(1, 40, (24, 7), generator=chance)
    memory = torch.randint(1, 40, (24, 5), generator=chance) * mask
    return Subject(
        Reader(),
        [{"ids": ids, "memory": memory, "memory_mask": mask, "labels": ids[:, 0] % 3}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
        layout=Layout(masks=(Mask("memory_mask", hides=("memory",), axis=1, may_be_empty=True),)),
    )
