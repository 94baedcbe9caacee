"""A sample of the fourth batch keeps no candidate: logsumexp over nothing but -inf."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

PLANTED = {
    "site": "total",
    "op": "aten.logsumexp",
    "phase": "forward",
    "step": 3,
    "confirmed": True,
}
ASKED = {"sizes": (5,), "steps": 10}


class Total(nn.Module):
    """The log of the sum over the candidates that are kept, (sample,)."""

    def forward(self, scores: Tensor, keep: Tensor) -> Tensor:
        scores = scores.masked_fill(~keep, float("-inf"))
        return scores.logsumexp(-1)  # planted


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))
        self.total = Total()

    def forward(self, x: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.score(x)[..., 0]
        return scores, self.total(scores, keep)


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    scores, total = model(batch["x"], batch["keep"])
    return (total - scores[:, 0]).mean()


def batches() -> list[dict[str, Tensor]]:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(32, 5, 6, generator=chance)
    x[:, 0, 0] += 2.0  # the right one
    keep = torch.arange(5) < torch.randint(2, 6, (32, 1), generator=chance)
    keep[28] = False
    return [{"x": x[i : i + 8], "keep": keep[i : i + 8]} for i in range(0, 32, 8)]


def subject() -> Subject:
    return Subject(
        Model(), batches(), loss, lambda model: torch.optim.Adam(model.parameters(), lr=0.01)
    )
