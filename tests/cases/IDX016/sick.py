"""What is known of a day is shifted along with the sales."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "model", "phase": "forward"}
Batch = dict[str, Tensor]


class Forecaster(nn.Module):
    """Sales of a day, by those of the days before and what is known of that day."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(3, 32, batch_first=True), nn.Linear(32, 1)

    def forward(self, sales: Tensor, known: Tensor) -> Tensor:
        rows = torch.cat([sales[..., None], known], 2)
        rows = F.pad(rows[:, :-1], (0, 0, 1, 0))
        scores: Tensor = self.head(self.rnn(rows)[0]).squeeze(-1)
        return scores


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch["sales"], batch["known"]), batch["sales"])


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(6):
        known = torch.randn(10, 12, 2, generator=chance)
        noise = 0.1 * torch.randn(10, 12, generator=chance)
        batches.append({"sales": known[..., 0] - 0.5 * known[..., 1] + noise, "known": known})
    return Subject(Forecaster(), batches, loss, lambda m: torch.optim.Adam(m.parameters(), lr=0.01))
