"""A slot for the item that is to be guessed is written over the last one that is known."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "model", "phase": "forward"}
ITEMS, LONG = 6, 8


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.items, self.head = nn.Embedding(ITEMS + 2, 48, padding_idx=0), nn.Linear(96, ITEMS)

    def forward(self, ids: Tensor, length: Tensor) -> Tensor:
        at = length[:, None] - 1
        ids = F.pad(ids, (0, 1)).scatter(1, at, ITEMS + 1)
        seen = self.items(ids)
        last = seen.gather(1, (at - 1)[..., None].expand(-1, 1, 48))[:, 0]
        shown = torch.arange(LONG + 1) <= at
        own = (seen * shown[..., None]).sum(1) / shown.sum(1, keepdim=True)
        out: Tensor = self.head(torch.cat([last, own], 1))
        return out


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch["ids"], batch["length"]), batch["next"])


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(3):
        ids = torch.randint(1, ITEMS + 1, (24, LONG), generator=chance)
        length = torch.randint(3, LONG + 1, (24,), generator=chance)
        ids = ids * (torch.arange(LONG) < length[:, None])
        last = ids.gather(1, length[:, None] - 1)[:, 0]
        batches.append({"ids": ids, "length": length, "next": (last + 2) % ITEMS})
    return Subject(
        Net(), batches, loss, lambda model: torch.optim.Adam(model.parameters(), lr=0.02)
    )
