"""Each table is looked up by its own key."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None


class Clicks(nn.Module):
    """A table for each of the three keys."""

    def __init__(self) -> None:
        super().__init__()
        self.genres, self.hours = nn.Embedding(6, 32), nn.Embedding(24, 32)
        self.users, self.head = nn.Embedding(8, 32), nn.Linear(32, 2)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        rows = self.users(batch["user"]) + self.genres(batch["genre"])
        rows = rows + self.hours(batch["hour"])
        scores: Tensor = self.head(rows.relu())
        return scores


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch), batch["click"])


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    sizes = {"user": 8, "genre": 6, "hour": 24, "click": 2}
    drawn = {k: torch.randint(0, n, (256,), generator=chance) for k, n in sizes.items()}
    return Subject(
        Clicks(),
        [{k: v[i : i + 32] for k, v in drawn.items()} for i in range(0, 256, 32)],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
    )
