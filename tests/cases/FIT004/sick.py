"""The step is far too small for anything to move."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Ratio, Subject

PLANTED = {"site": "<optimizer>", "phase": None}


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def right(model: nn.Module, batch: dict[str, Tensor]) -> Ratio:
    return Ratio((model(batch["x"]).argmax(-1) == batch["y"]).sum(), len(batch["y"]))


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(24, 8, generator=chance)
    y = torch.randint(0, 3, (24,), generator=chance)
    return Subject(
        nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3)),
        [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 24, 8)],
        loss,
        lambda model: torch.optim.SGD(model.parameters(), lr=1e-9),
        metrics={"class": right},
    )
