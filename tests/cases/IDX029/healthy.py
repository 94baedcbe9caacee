"""Items are numbered from 1 on, and 0 is padding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None
ITEMS = 20
START = 1


class Next(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(ITEMS + 1, 16, padding_idx=0)
        self.rnn = nn.GRU(16, 32, batch_first=True)
        self.head = nn.Linear(32, ITEMS + 1)

    def forward(self, seen: Tensor) -> Tensor:
        logits: Tensor = self.head(self.rnn(self.items(seen))[0])
        return logits


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    logits = model(batch["seen"]).flatten(0, 1)
    return nn.functional.cross_entropy(logits, batch["next"].flatten(), ignore_index=0)


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    steps, begin = torch.randint(1, 4, (48, 13), generator=chance), torch.arange(48)[:, None]
    walks = (steps.cumsum(1) + begin) % ITEMS + START
    clicks = torch.randint(6, 14, (48, 1), generator=chance)
    walks = walks * (torch.arange(13) < clicks)
    following = walks[:, 1:]
    seen = walks[:, :-1] * (torch.arange(12) < clicks - 1)
    batches = zip(seen.split(16), following.split(16), strict=True)
    return Subject(
        Next(),
        [{"seen": before, "next": after} for before, after in batches],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
        lambda model, batch: model(batch["seen"]),
    )
