"""A decoder that is searched by beams, each with its own state."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None
WORDS, BEAMS, LONG = 8, 3, 5


class Writer(nn.Module):
    """Ids after a number that is given."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.embed = nn.Linear(2, 16), nn.Embedding(WORDS, 16)
        self.cell, self.head = nn.GRUCell(16, 16), nn.Linear(16, WORDS)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        h, found = self.start(x).tanh(), []
        for t in range(ids.shape[1]):
            h = self.cell(self.embed(ids[:, t]), h)
            found.append(self.head(h))
        return torch.stack(found, 1)

    @torch.no_grad()
    def search(self, x: Tensor) -> Tensor:
        base = torch.arange(len(x), device=x.device)[:, None] * BEAMS
        h = self.start(x).tanh().repeat_interleave(BEAMS, 0)
        ids = torch.zeros(len(h), 1, dtype=torch.long, device=x.device)
        scores = torch.zeros(len(x), BEAMS, device=x.device)
        scores[:, 1:] = -1e9
        for _ in range(LONG):
            h = self.cell(self.embed(ids[:, -1]), h)
            total = scores.view(-1, 1) + self.head(h).log_softmax(-1)
            scores, flat = total.view(len(x), -1).topk(BEAMS)
            parent, word = (base + flat // WORDS).view(-1), (flat % WORDS).view(-1, 1)
            ids, h = torch.cat([ids[parent], word], 1), h[parent]
        return ids[::BEAMS, 1:]


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    logits = model(batch["x"], F.pad(batch["ids"][:, :-1], (1, 0)))
    return F.cross_entropy(logits.flatten(0, 1), batch["ids"].flatten())


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.rand(24, 2, generator=chance)
    ids = 1 + (6 * x[:, :1] + 5 * x[:, 1:] * torch.arange(LONG)).long() % (WORDS - 1)
    return Subject(
        Writer(),
        [{"x": a, "ids": b} for a, b in zip(x.split(12), ids.split(12), strict=True)],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
        predict=lambda model, batch: model.search(batch["x"]),
    )
