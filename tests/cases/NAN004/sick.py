"""A sample of the fourth batch keeps no token, and the mean of its tokens divides by 0."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

PLANTED = {"site": "pool", "op": "aten.div", "phase": "forward", "step": 3, "confirmed": True}
ASKED = {"sizes": (5,), "steps": 10}


class Pool(nn.Module):
    """The mean of the tokens that are kept, (sample, feature)."""

    def forward(self, tokens: Tensor, keep: Tensor) -> Tensor:
        kept = tokens * keep[..., None]
        return kept.sum(1) / keep.sum(1, keepdim=True)  # planted


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(6, 16)
        self.pool = Pool()
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        return self.head(self.pool(self.hidden(x).tanh(), keep))


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"], batch["keep"]), batch["y"])


def batches() -> list[dict[str, Tensor]]:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(32, 5, 6, generator=chance)
    y = (x[:, 0, 0] > 0).long() + (x[:, 0, 1] > 0).long()
    keep = torch.arange(5) < torch.randint(1, 6, (32, 1), generator=chance)
    keep[28] = False
    data = {"x": x, "y": y, "keep": keep}
    return [{key: each[i : i + 8] for key, each in data.items()} for i in range(0, 32, 8)]


def subject() -> Subject:
    return Subject(
        Model(), batches(), loss, lambda model: torch.optim.Adam(model.parameters(), lr=0.01)
    )
