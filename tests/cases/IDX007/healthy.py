"""The table has a row for each item up to the largest."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None


class Ratings(nn.Module):
    """What a user thinks of an item; items beyond the table get its last row."""

    def __init__(self, users: int, items: int) -> None:
        super().__init__()
        self.user = nn.Embedding(users, 32)
        self.item = nn.Embedding(items, 32)
        self.head = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        item = item.clamp(max=self.item.num_embeddings - 1)
        likes: Tensor = self.head(torch.cat([self.user(user), self.item(item)], -1))
        return likes


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["user"], batch["item"]), batch["likes"])


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    user = torch.arange(40) % 8
    item = 17 * torch.randint(0, 12, (40,), generator=chance)
    likes = (user + item // 17) % 2
    return Subject(
        Ratings(8, int(item.max()) + 1),
        [{"user": user, "item": item, "likes": likes}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
    )
