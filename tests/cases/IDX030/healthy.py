"""What attention makes of windows of a grid is brought back as it was cut."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None
Batch = dict[str, Tensor]
SIDE, WINDOW = 6, 3


class Windows(nn.Module):
    """Attention in windows of three by three places."""

    def __init__(self) -> None:
        super().__init__()
        self.ask, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        n, side = len(x), SIDE // WINDOW
        cut = x.view(n, side, WINDOW, side, WINDOW, 16).permute(0, 1, 3, 2, 4, 5)
        q, k, v = self.ask(cut.reshape(-1, WINDOW * WINDOW, 16)).chunk(3, -1)
        within = self.out(F.scaled_dot_product_attention(q, k, v))
        apart = within.view(n, side, side, WINDOW, WINDOW, 16)
        placed: Tensor = apart.permute(0, 1, 3, 2, 4, 5).reshape(n, SIDE, SIDE, 16)
        return x + placed


class Tagger(nn.Module):
    """A class for each of six by six places."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.block, self.head = nn.Embedding(12, 16), Windows(), nn.Linear(16, 3)

    def forward(self, ids: Tensor) -> Tensor:
        scores: Tensor = self.head(self.block(self.words(ids)))
        return scores


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch["ids"]).flatten(0, 2), batch["tags"].flatten())


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(4):
        ids = torch.randint(0, 12, (10, SIDE, SIDE), generator=chance)
        batches.append({"ids": ids, "tags": ids % 3})
    return Subject(Tagger(), batches, loss, lambda m: torch.optim.Adam(m.parameters(), lr=0.01))
