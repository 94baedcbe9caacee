"""An average of the parameters is evaluated with the statistics of what learned them."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None


class Averaged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 4))
        self.ema = copy.deepcopy(self.net).requires_grad_(False)

    @torch.no_grad()
    def update(self, decay: float = 0.9) -> None:
        for own, learned in zip(self.ema.parameters(), self.net.parameters(), strict=True):
            own.lerp_(learned, 1 - decay)
        for own, learned in zip(self.ema.buffers(), self.net.buffers(), strict=True):
            own.copy_(learned)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.net(x)
        return scores


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["label"])


def step(model: nn.Module, batch: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> Tensor:
    assert isinstance(model, Averaged)
    optimizer.zero_grad()
    value = loss(model, batch)
    value.backward()
    optimizer.step()
    model.update()
    return value.detach()


def predict(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    scores: Tensor = model.ema(batch["x"])  # type: ignore[operator]
    return scores


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = 1.0 + 2.0 * torch.randn(48, 8, generator=chance)
    label = (x @ torch.randn(8, 4, generator=chance)).argmax(1)
    return Subject(
        Averaged(),
        [{"x": a, "label": b} for a, b in zip(x.split(16), label.split(16), strict=True)],
        loss,
        lambda model: torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        predict=predict,
        train_step=step,
    )
