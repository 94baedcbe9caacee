"""A running variance of a constant column halves in every step, and is divided by."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

PLANTED = {"op": "aten.sqrt", "phase": "forward"}


class Standardise(nn.Module):
    """Divides by a running deviation; one column is constant."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("var", torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.var = 0.5 * self.var + 0.5 * x.var(0)
        return (x - x.mean(0)) / self.var.sqrt()


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.standardise = Standardise()
        self.body = nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.standardise(x))


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return -model(batch["x"]).log_softmax(-1).gather(1, batch["y"][:, None]).mean()


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(24, 8, generator=chance)
    x[:, 3] = 1.0
    y = torch.randint(0, 3, (24,), generator=chance)
    return Subject(
        Model(),
        [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 24, 8)],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
    )
