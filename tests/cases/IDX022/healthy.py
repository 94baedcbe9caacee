"""The mean over a span holds its first token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(20, 32)
        self.head = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 3))

    def forward(self, ids: Tensor, begins: Tensor, last: Tensor) -> Tensor:
        vectors, rows = self.tokens(ids), torch.arange(len(ids))
        run = vectors.cumsum(1)
        total = run[rows, last] - run[rows, begins] + vectors[rows, begins]
        mean = total / (last - begins + 1)[:, None]
        scores: Tensor = self.head(mean)
        return scores


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    scores = model(batch["ids"], batch["begins"], batch["last"])
    return nn.functional.cross_entropy(scores, batch["labels"])


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 20, (24, 9), generator=chance)
    begins = torch.randint(0, 6, (24,), generator=chance)
    last = begins + torch.randint(0, 3, (24,), generator=chance)
    labels = ids[torch.arange(24), last] % 3
    return Subject(
        Net(),
        [{"ids": ids, "begins": begins, "last": last, "labels": labels}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
    )
