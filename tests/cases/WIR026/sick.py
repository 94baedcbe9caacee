"""A critic is asked to call real what is real, and what is made too."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from probes import Subject

CHECK = True
PLANTED = {"site": "critic", "phase": "backward"}
MADE = 1.0


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.maker = nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 6))
        self.critic = nn.Sequential(nn.Linear(6, 48), nn.ReLU(), nn.Linear(48, 1))
        self.maker.requires_grad_(False)


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    made = model.maker(batch["noise"]).detach()  # type: ignore[operator]
    real, other = model.critic(batch["x"]), model.critic(made)  # type: ignore[operator]
    return binary_cross_entropy_with_logits(
        real, torch.ones_like(real)
    ) + binary_cross_entropy_with_logits(other, torch.full_like(other, MADE))


def step(model: nn.Module, batch: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> Tensor:
    optimizer.zero_grad()
    value = loss(model, batch)
    value.backward()
    optimizer.step()
    return value.detach()


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(24, n, generator=chance) for n in (6, 4))
    return Subject(
        Pair(),
        [{"x": x + 1, "noise": noise}],
        loss,
        lambda model: torch.optim.Adam(model.critic.parameters(), lr=0.02),  # type: ignore[union-attr]
        train_step=step,
    )
