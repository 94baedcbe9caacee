"""Gradients are accumulated over more micro-batches than ever come."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Ratio, Subject

PLANTED = {"site": "<optimizer>", "phase": "update"}
ASKED = {"sizes": (5,)}


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def right(model: nn.Module, batch: dict[str, Tensor]) -> Ratio:
    return Ratio((model(batch["x"]).argmax(-1) == batch["y"]).sum(), len(batch["y"]))


class Accumulated:
    """Steps once in so many calls."""

    def __init__(self, every: int) -> None:
        self.every, self.calls = every, 0

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> Tensor:
        value = loss(model, batch)
        (value / self.every).backward()
        self.calls += 1
        if self.calls % self.every == 0:
            optimizer.step()
            optimizer.zero_grad()
        return value


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(24, 8, generator=chance)
    y = torch.randint(0, 3, (24,), generator=chance)
    return Subject(
        nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3)),
        [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 24, 8)],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
        train_step=Accumulated(100_000),
        metrics={"class": right},
    )
