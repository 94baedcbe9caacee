"""Four micro-batches add up to one step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None


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


def step(model: nn.Module, batch: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> Tensor:
    optimizer.zero_grad()
    losses = []
    for x, labels in zip(batch["x"].chunk(4), batch["labels"].chunk(4), strict=True):
        part = loss(model, {"x": x, "labels": labels})
        (part / 4).backward()
        losses.append(part.detach())
    optimizer.step()
    return torch.stack(losses).mean()


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(24, 8, generator=chance)
    labels = torch.randint(0, 3, (24,), generator=chance)
    return Subject(
        Net(),
        [{"x": x, "labels": labels}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
        train_step=step,
    )
