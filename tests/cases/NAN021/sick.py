"""A buffer is taken without being set, and not wholly written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from probes import Subject

PLANTED = {"site": "kept", "phase": "forward", "step": 0}
ASKED = {"sizes": (5,), "steps": 10}


@contextmanager
def filled() -> Iterator[None]:
    """Memory that is taken holds NaN, so that a read of it shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


class Kept(nn.Module):
    """Positive activations in a buffer of the batch's size."""

    def forward(self, x: Tensor) -> Tensor:
        with filled():
            kept = torch.empty(x.shape)  # planted
        return torch.cat([kept.masked_scatter(x > 0, x[x > 0]), x], -1)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kept = Kept()
        self.head = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.kept(x))


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def batches() -> list[dict[str, Tensor]]:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(32, 6, generator=chance)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    return [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 32, 8)]


def subject() -> Subject:
    return Subject(
        Model(), batches(), loss, lambda model: torch.optim.Adam(model.parameters(), lr=0.01)
    )
