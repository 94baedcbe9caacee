"""The attacked embedding is put back before the step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 32)
        self.head = nn.Linear(32, 3)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.words(ids).mean(1))
        return logits


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["ids"]), batch["labels"])


def attack(model: nn.Module, part: str, epsilon: float = 0.3) -> dict[str, Tensor]:
    backup = {}
    for name, p in model.named_parameters():
        if part in name and p.grad is not None:
            backup[name] = p.data.clone()
            p.data.add_(p.grad, alpha=epsilon / float(p.grad.norm()))
    return backup


def restore(model: nn.Module, part: str, backup: dict[str, Tensor]) -> None:
    for name, p in model.named_parameters():
        if part in name:
            p.data = backup[name]


def step(model: nn.Module, batch: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> Tensor:
    optimizer.zero_grad()
    clean = loss(model, batch)
    clean.backward()
    backup = attack(model, "words")
    loss(model, batch).backward()
    restore(model, "words", backup)
    optimizer.step()
    return clean


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 20, (24, 6), generator=chance)
    labels = torch.randint(0, 3, (24,), generator=chance)
    return Subject(
        Net(),
        [{"ids": ids, "labels": labels}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
        train_step=step,
    )
