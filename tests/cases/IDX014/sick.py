"""Two views, one after the other, are laid out as if they lay beside each other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "<loss>", "phase": "forward"}
Batch = dict[str, Tensor]


class Encoder(nn.Module):
    """Unit vectors of windows."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 8))

    def forward(self, windows: Tensor) -> Tensor:
        return F.normalize(self.body(windows), dim=-1)


def loss(model: nn.Module, batch: Batch) -> Tensor:
    n = len(batch["one"])
    rows = model(torch.cat([batch["one"], batch["two"]]))
    views = rows.view(n, 2, -1)  # planted
    flat = views.flatten(0, 1)  # (2 n, 8)
    itself = torch.eye(2 * n, dtype=torch.bool, device=flat.device)
    owner = torch.arange(n, device=flat.device).repeat_interleave(2)
    scores = (flat @ flat.T / 0.05).masked_fill(itself, -1e9).log_softmax(1)
    return -scores[(owner[:, None] == owner) & ~itself].mean()


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(4):
        window = torch.randn(16, 12, generator=chance)
        one, two = (window + 0.2 * torch.randn(16, 12, generator=chance) for _ in range(2))
        batches.append({"one": one, "two": two})
    return Subject(
        Encoder(), batches, loss, lambda model: torch.optim.Adam(model.parameters(), lr=0.01)
    )
