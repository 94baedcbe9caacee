"""Views of a sample share their unit length, and dot products run along the features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "model", "phase": "forward"}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.project = nn.Linear(8, 64), nn.Linear(64, 24)

    def forward(self, views: Tensor) -> Tensor:
        return F.normalize(self.project(self.body(views).relu()))  # planted


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    rows = model(batch["views"]).transpose(0, 1).flatten(0, 1)  # (view, sample) in one
    scores = rows @ rows.T / 0.5 - 1e4 * torch.eye(len(rows))
    half = len(rows) // 2
    return F.cross_entropy(scores, torch.arange(len(rows)).roll(half))


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(24, 1, 8, generator=chance)
    views = x + 0.1 * torch.randn(24, 2, 8, generator=chance)
    return Subject(
        Net(), [{"views": views}], loss, lambda model: torch.optim.Adam(model.parameters(), lr=0.02)
    )
