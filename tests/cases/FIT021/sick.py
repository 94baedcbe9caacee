"""Ranks that are counted from 1 where they are predicted, and from 0 where they are labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Ratio, Subject

PLANTED = {"site": "rank"}
ASKED = {"sizes": (5,)}


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["rank"])


def predict(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return 1 + model(batch["x"]).argmax(-1)


def right(model: nn.Module, batch: dict[str, Tensor]) -> Ratio:
    return Ratio((predict(model, batch) == batch["rank"]).sum(), len(batch["rank"]))  # planted


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(24, 8, generator=chance)
    y = torch.randint(0, 5, (24,), generator=chance)
    return Subject(
        nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 5)),
        [{"x": x[i : i + 8], "rank": y[i : i + 8]} for i in range(0, 24, 8)],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=1e-2),
        metrics={"rank": right},
    )
