"""A mean over what is rebuilt beside a sum over the code: the code is crushed to nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Ratio, Subject

PLANTED = {"site": "<loss>"}
ASKED = {"sizes": (5,)}


class Auto(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Sequential(nn.Linear(32, 48), nn.Tanh(), nn.Linear(48, 16))
        self.write = nn.Sequential(nn.Linear(8, 48), nn.Tanh(), nn.Linear(48, 32))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, spread = self.read(x).chunk(2, -1)
        drawn = mean + torch.randn_like(mean) * spread.exp() if self.training else mean
        return self.write(drawn), mean, spread


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    out, mean, spread = model(batch["x"])
    kl = (mean.square() + (2 * spread).exp() - 1 - 2 * spread).sum(-1).mean() / 2
    return nn.functional.mse_loss(out, batch["x"]) + kl  # planted


def near(model: nn.Module, batch: dict[str, Tensor]) -> Ratio:
    apart = (model(batch["x"])[0] - batch["x"]).abs()
    return Ratio((apart < 0.3).sum(), apart.numel())


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(24, 32, generator=chance)
    return Subject(
        Auto(),
        [{"x": part} for part in x.split(8)],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=5e-3),
        metrics={"near": near},
    )
