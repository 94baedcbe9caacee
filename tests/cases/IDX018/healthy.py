"""The distance of a key that lies behind its query is counted."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None
WORDS, FAR, LENGTH = 11, 6, 12


class Reader(nn.Module):
    """Words by those before them: one head that sees words and distances."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.far = nn.Embedding(WORDS, 16), nn.Embedding(FAR, 1)
        self.qkv, self.head = nn.Linear(16, 48), nn.Linear(16, WORDS)

    def forward(self, ids: Tensor) -> Tensor:
        length = ids.shape[1]
        x = self.words(ids)  # (sample, token, 16)
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        at = torch.arange(length, device=ids.device)
        behind = at[:, None] - at  # (query, key)
        far = self.far(behind.clamp(0, FAR - 1)).squeeze(-1)
        scores = (query @ key.mT) / 4 + far
        scores = scores.masked_fill(at > at[:, None], -torch.inf)
        out: Tensor = self.head(x + scores.softmax(-1) @ value)  # (sample, token, word)
        return out


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    return F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    batches = [torch.randint(WORDS, (8, LENGTH + 1), generator=chance) for _ in range(4)]
    for ids in batches:
        for t in range(2, LENGTH + 1):
            ids[:, t] = ids[:, t - 2]
    return Subject(Reader(), batches, loss, lambda m: torch.optim.Adam(m.parameters(), lr=0.01))
