"""A moving average that is evaluated, and that follows fast while there are few steps."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from probes import Ratio, Subject

PLANTED = None
ASKED = {"sizes": (5,)}


class Averaged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 5))
        self.mean = copy.deepcopy(self.net).requires_grad_(False)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    @torch.no_grad()
    def follow(self) -> None:
        self.steps += 1
        keep = min(0.9999, float((1 + self.steps) / (10 + self.steps)))
        for mine, theirs in zip(self.mean.parameters(), self.net.parameters(), strict=True):
            mine.lerp_(theirs, 1 - keep)


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def step(model: nn.Module, batch: dict[str, Tensor], optimizer: Optimizer) -> Tensor:
    optimizer.zero_grad()
    value = loss(model, batch)
    value.backward()
    optimizer.step()
    model.follow()
    return value.detach()


def right(model: nn.Module, batch: dict[str, Tensor]) -> Ratio:
    return Ratio((model.mean(batch["x"]).argmax(-1) == batch["y"]).sum(), len(batch["y"]))


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(24, 8, generator=chance)
    y = torch.randint(0, 5, (24,), generator=chance)
    return Subject(
        Averaged(),
        [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 24, 8)],
        loss,
        lambda model: torch.optim.Adam(model.net.parameters(), lr=1e-2),
        train_step=step,
        metrics={"class": right},
    )
