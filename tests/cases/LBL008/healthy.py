"""What is ignored is no class."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    scores = model(batch["ids"]).flatten(0, 1)
    return nn.functional.cross_entropy(scores, batch["tags"].flatten(), ignore_index=-100)


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 40, (24, 8), generator=chance)
    model = nn.Sequential(nn.Embedding(40, 32), nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4))
    return Subject(
        model,
        [{"ids": ids, "tags": ids % 4}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
    )
