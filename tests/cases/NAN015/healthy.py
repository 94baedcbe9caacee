"""torch's scaler takes the step: it skips such steps and halves its scale."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

PLANTED = None
ASKED = {"sizes": (5,), "steps": 300}


class Half(nn.Module):
    """Scores in float16."""

    def forward(self, scores: Tensor) -> Tensor:
        return scores.half()


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(6, 16)
        self.head = nn.Linear(16, 3)
        self.half_scores = Half()

    def forward(self, x: Tensor) -> Tensor:
        return self.half_scores(self.head(self.hidden(x).tanh())).float()


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


class Scaled:
    """A step under torch's scaler."""

    def __init__(self) -> None:
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> Tensor:
        optimizer.zero_grad()
        value = loss(model, batch)
        self.scaler.scale(value).backward()
        self.scaler.step(optimizer)
        self.scaler.update()
        return value


def batches() -> list[dict[str, Tensor]]:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(32, 6, generator=chance)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    return [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 32, 8)]


def subject() -> Subject:
    return Subject(
        Model(),
        batches(),
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
        train_step=Scaled(),
    )
