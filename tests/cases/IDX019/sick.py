"""Marks are written at (x, y), which is taken for (row, column)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "<loss>", "phase": "forward"}
Batch = dict[str, Tensor]
CELLS, PIXELS = 6, 24


class Finder(nn.Module):
    """How much each cell looks like a mark."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 16, 4, stride=4), nn.ReLU())
        self.head = nn.Conv2d(16, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.head(self.down(image)).squeeze(1)  # (sample, row, column)
        return scores


def loss(model: nn.Module, batch: Batch) -> Tensor:
    scores = model(batch["image"])
    targets = torch.zeros_like(scores)
    sample = torch.arange(len(scores), device=scores.device)[:, None]
    x, y = (batch["at"] * CELLS).long().unbind(-1)  # (sample, mark)
    targets[sample, x, y] = 1
    return F.binary_cross_entropy_with_logits(scores, targets)  # planted


def drawn(count: int, chance: torch.Generator) -> Batch:
    image = 0.1 * torch.randn(count, 1, PIXELS, PIXELS, generator=chance)
    at = torch.zeros(count, 4, 2)
    for i in range(count):
        for j, cell in enumerate(torch.randperm(CELLS**2, generator=chance)[:4].tolist()):
            row, column = divmod(cell, CELLS)
            y, x = 4 * row + 2, 4 * column + 2
            image[i, 0, y - 1 : y + 2, x - 1 : x + 2] += 1
            at[i, j] = torch.tensor([x / PIXELS, y / PIXELS])
    return {"image": image, "at": at}


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    batches = [drawn(10, chance) for _ in range(6)]
    return Subject(Finder(), batches, loss, lambda m: torch.optim.Adam(m.parameters(), lr=0.01))
