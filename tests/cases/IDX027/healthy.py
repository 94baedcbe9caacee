"""Mixup, whose images and labels are mixed by the same weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.subject import Ratio

CHECK = True
PLANTED = None
Batch = dict[str, Tensor]


def loss(model: nn.Module, batch: Batch) -> Tensor:
    x, y = batch["x"], batch["y"]
    lam = 1 - 0.1 * float(torch.rand(()))
    order = torch.randperm(len(x))
    scores = model(lam * x + (1 - lam) * x[order])
    classes = F.one_hot(y, 3).float()
    return F.cross_entropy(scores, lam * classes + (1 - lam) * classes[order])


def right(model: nn.Module, batch: Batch) -> Ratio:
    """How many images that are not mixed are told."""
    hits = model(batch["x"]).argmax(-1) == batch["y"]
    return Ratio(hits.sum(), hits.numel())


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(4):
        x = torch.randn(24, 24, generator=chance)
        batches.append({"x": x, "y": x[:, :3].argmax(1)})
    model = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 3))
    return Subject(
        model,
        batches,
        loss,
        lambda m: torch.optim.Adam(m.parameters(), lr=0.01),
        predict=lambda m, batch: m(batch["x"]),
        metrics={"class": right},
    )
