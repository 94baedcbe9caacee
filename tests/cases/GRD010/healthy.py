"""The same with no gradient where it is frozen."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from probes import Subject

PLANTED = None


def net() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3))
    model[0].requires_grad_(False)
    return model


def step(model: nn.Module, batch: dict[str, Tensor], optimizer: Optimizer) -> Tensor:
    """A step that keeps gradients as zeros where there is something to train."""
    optimizer.zero_grad(set_to_none=False)
    found = loss(model, batch)
    found.backward()
    for parameter in model.parameters():
        if parameter.grad is None and parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return found


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(24, 8, generator=chance)
    y = x[:, :3].argmax(1)
    return Subject(
        net(),
        [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 24, 8)],
        loss,
        lambda model: torch.optim.AdamW(model.parameters(), lr=3e-2, weight_decay=0.01),
        train_step=step,
    )
