"""A target network follows the network that learns."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.online = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16))
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.head = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        guess: Tensor = self.head(self.online(x))
        return guess


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    wanted = model.target(batch["x"].flip(1))  # type: ignore[operator]
    return nn.functional.mse_loss(model(batch["x"]), wanted)


@torch.no_grad()
def average(online: nn.Module, target: nn.Module, tau: float = 0.95) -> None:
    for one, other in zip(online.parameters(), target.parameters(), strict=True):
        other.data = tau * other.data + (1 - tau) * one.data


def step(model: nn.Module, batch: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> Tensor:
    optimizer.zero_grad()
    value = loss(model, batch)
    value.backward()
    optimizer.step()
    average(model.online, model.target)  # type: ignore[arg-type]
    return value.detach()


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    return Subject(
        Net(),
        [{"x": torch.randn(24, 8, generator=chance)}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
        train_step=step,
    )
