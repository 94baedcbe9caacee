"""The third batch is 40 times as long as the others, and its scores 1600 times as large."""

from __future__ import annotations

import gc
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from probes import Subject

PLANTED = {"site": "attention", "phase": "forward", "step": 2}
ROOM = 400 * 2**20  # bytes of address space that a step may take


@contextmanager
def limited() -> Iterator[None]:
    """A step may take no more than its room; the limit is as it was afterwards."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    gc.collect()  # what nobody holds any more is no room
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(4, 8), nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:  # (sample, token, feature)
        scores = self.query(x) @ self.key(x).mT  # (sample, token, token)
        return scores.softmax(-1) @ x


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.body = nn.Sequential(nn.Linear(4, 64), nn.GELU(), nn.Linear(64, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.body((x + self.attention(x)).mean(1))


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def train_step(model: nn.Module, batch: dict[str, Tensor], optimizer: Optimizer) -> Tensor:
    with limited():
        optimizer.zero_grad()
        value = loss(model, batch)
        value.backward()
        optimizer.step()
    return value


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    lengths = (64, 64, 2600)
    batches = [
        {
            "x": torch.randn(8, length, 4, generator=chance),
            "y": torch.randint(0, 3, (8,), generator=chance),
        }
        for length in lengths
    ]
    return Subject(
        Model(),
        batches,
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
        train_step=train_step,
    )
