"""Heads are brought before the places, and attention runs over these."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None
Batch = dict[str, Tensor]
WIDTH, HEADS = 16, 4


class Attention(nn.Module):
    """Causal, of several heads."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = (
            each.view(b, t, HEADS, c // HEADS).transpose(1, 2) for each in self.qkv(x).chunk(3, -1)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.out(y.transpose(1, 2).reshape(b, t, c))
        return out


class Model(nn.Module):
    """The next id of a text."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, WIDTH), nn.Embedding(12, WIDTH)
        self.attention, self.head = Attention(), nn.Linear(WIDTH, 20)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.places.weight[: ids.shape[1]]
        scores: Tensor = self.head(x + self.attention(x))
        return scores


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch["ids"]).flatten(0, 1), batch["next"].flatten())


def subject() -> Subject:
    rows = torch.randint(0, 20, (24, 13), generator=torch.Generator().manual_seed(0))
    return Subject(
        Model(),
        [{"ids": rows[:, :-1], "next": rows[:, 1:]}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=1e-2),
        predict=lambda model, batch: model(batch["ids"]),
    )
