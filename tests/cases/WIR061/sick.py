"""Gradients that are clipped with their scale in them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from probes import Subject

CHECK = True
PLANTED = {"site": "<optimizer>", "phase": "update"}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(8, 64)
        self.head = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(x).relu())
        return logits


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["labels"])


def subject() -> Subject:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)

    def step(model: nn.Module, batch: dict[str, Tensor], optimizer: Optimizer) -> Tensor:
        optimizer.zero_grad()
        value = loss(model, batch)
        scaler.scale(value).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)  # planted
        scaler.step(optimizer)
        scaler.update()
        return value.detach()

    chance = torch.Generator().manual_seed(0)
    x = torch.randn(24, 8, generator=chance)
    labels = torch.randint(0, 3, (24,), generator=chance)
    return Subject(
        Net(),
        [{"x": x, "labels": labels}],
        loss,
        lambda model: torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9),
        train_step=step,
    )
