"""A silent sample has magnitude hypot(0, 0), whose derivative divides by 0."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

PLANTED = {"site": "magnitude", "op": "aten.div", "phase": "backward", "step": 3, "confirmed": True}
ASKED = {"sizes": (5,), "steps": 10}


class Magnitude(nn.Module):
    """Magnitudes of complex numbers, (sample, 3)."""

    def forward(self, real: Tensor, imaginary: Tensor) -> Tensor:
        return torch.hypot(real, imaginary)  # planted


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(6))
        self.magnitude = Magnitude()
        self.head = nn.Sequential(nn.Linear(9, 16), nn.Tanh(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        real, imaginary = (x * self.gain).chunk(2, -1)
        return self.head(torch.cat([self.magnitude(real, imaginary), x], -1))


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def batches() -> list[dict[str, Tensor]]:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(32, 6, generator=chance)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    x[28] = 0.0
    return [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 32, 8)]


def subject() -> Subject:
    return Subject(
        Model(), batches(), loss, lambda model: torch.optim.Adam(model.parameters(), lr=0.01)
    )
