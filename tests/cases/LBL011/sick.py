"""Returns are collected from the end, and stay in that order."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "<loss>", "phase": "forward"}


class Critic(nn.Module):
    """The value of every state."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Sequential(nn.Linear(16, 128), nn.ReLU(), nn.Linear(128, 1))

    def forward(self, states: Tensor) -> Tensor:
        values: Tensor = self.read(states)[..., 0]
        return values


def returns(rewards: Tensor) -> Tensor:
    found, running = [], torch.zeros(len(rewards))
    for reward in rewards.unbind(1)[::-1]:
        running = reward + 0.8 * running
        found.append(running)
    return torch.stack(found, 1)  # planted


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.mse_loss(model(batch["states"]), returns(batch["rewards"]))


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    states = torch.randn(24, 8, 16, generator=chance)
    return Subject(
        Critic(),
        [{"states": states, "rewards": states[..., 0].tanh()}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
    )
