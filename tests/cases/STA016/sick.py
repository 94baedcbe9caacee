"""Noise is added for one time, and the model is told another."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "model", "phase": "forward"}
TIMES = 40
KEPT = torch.linspace(0.99, 0.05, TIMES)


class Denoiser(nn.Module):
    """The clean sample, from a noisy one and how noisy it is."""

    def __init__(self) -> None:
        super().__init__()
        self.time, self.read = nn.Embedding(TIMES, 64), nn.Linear(6, 64)
        self.head = nn.Sequential(nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 6))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        clean: Tensor = self.head(self.read(x) + self.time(time))
        return clean


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    x, n = batch["x"], len(batch["x"])
    time = torch.randint(0, TIMES, (n,))
    kept = KEPT[time][:, None]
    noisy = kept.sqrt() * x + (1 - kept).sqrt() * torch.randn_like(x)
    time = torch.randint(0, TIMES, (n,))  # planted
    return nn.functional.mse_loss(model(noisy, time), x)


def near(model: nn.Module, batch: dict[str, Tensor]) -> tuple[float, int]:
    """Whether a sample without noise is given back."""
    far = (model(batch["x"], torch.zeros(len(batch["x"]), dtype=torch.long)) - batch["x"]).abs()
    return float((far.mean(1) < 1.0).sum()), len(far)


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    return Subject(
        Denoiser(),
        [{"x": torch.randn(24, 6, generator=chance)}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
        metrics={"near": near},
    )
