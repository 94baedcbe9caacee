"""Columns are given first."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None
Batch = dict[str, Tensor]
ROWS, COLUMNS = 16, 24
MARKS = torch.tensor([[[0, 1, 0], [1, 1, 1], [0, 1, 0]], [[1, 0, 1], [0, 1, 0], [1, 0, 1]]]).float()


class Reader(nn.Module):
    """The class of the mark at each point, given as row and column."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 2))

    def forward(self, image: Tensor, points: Tensor) -> Tensor:
        grid = points / torch.tensor([ROWS - 1.0, COLUMNS - 1.0], device=points.device) * 2 - 1
        rows = F.grid_sample(self.maps(image), grid.flip(-1)[:, None], align_corners=True)
        scores: Tensor = self.head(rows.squeeze(2).transpose(1, 2))  # (sample, point, class)
        return scores


def loss(model: nn.Module, batch: Batch) -> Tensor:
    scores = model(batch["image"], batch["points"])
    return F.cross_entropy(scores.flatten(0, 1), batch["kind"].flatten())


def drawn(count: int, chance: torch.Generator) -> Batch:
    image = 0.1 * torch.randn(count, 1, ROWS, COLUMNS, generator=chance)
    kind = torch.randint(2, (count, 4), generator=chance)
    points = torch.zeros(count, 4, 2)
    for i in range(count):
        for j, cell in enumerate(torch.randperm(24, generator=chance)[:4].tolist()):
            y, x = 2 + 4 * (cell // 6), 2 + 4 * (cell % 6)
            image[i, 0, y - 1 : y + 2, x - 1 : x + 2] += MARKS[kind[i, j]]
            points[i, j] = torch.tensor([y, x])
    return {"image": image, "points": points, "kind": kind}


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    batches = [drawn(20, chance) for _ in range(6)]
    return Subject(Reader(), batches, loss, lambda m: torch.optim.Adam(m.parameters(), lr=0.01))
