"""What is asked for is noise, and what is added to the input is other noise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "<loss>", "phase": "forward"}
STEPS = 20
KEPT = torch.linspace(0.98, 0.1, STEPS)


class Denoiser(nn.Module):
    """Tells the noise in a signal, given how much of the signal is left."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(13, 64), nn.Linear(64, 12)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        told = torch.cat([x, KEPT.to(x)[t][:, None]], 1)
        noise: Tensor = self.two(F.silu(self.one(told)))
        return noise


def noised(x: Tensor, t: Tensor, noise: Tensor | None = None) -> Tensor:
    noise = torch.randn_like(x) if noise is None else noise
    kept = KEPT.to(x)[t][:, None]
    return kept.sqrt() * x + (1 - kept).sqrt() * noise


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    x = batch["x"]
    t = torch.randint(STEPS, (len(x),), device=x.device)
    noise = torch.randn_like(x)
    return F.mse_loss(model(noised(x, t), t), noise)  # planted


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    start = 6 * torch.rand(4, 16, 1, generator=chance)
    signals = torch.sin(start + torch.arange(12) / 2)
    return Subject(
        Denoiser(),
        [{"x": each} for each in signals],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.003),
    )
