"""The accuracy counts padding, which is labelled -100 and can never be right."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Ratio, Subject

PLANTED = {"site": "<data>"}
ASKED = {"sizes": (5,), "steps": 100}


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 32)
        self.head = nn.Linear(32, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids))


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["ids"]).flatten(0, 1), batch["labels"].flatten())


def right(model: nn.Module, batch: dict[str, Tensor]) -> Ratio:
    hits = (model(batch["ids"]).argmax(-1) == batch["labels"]).sum()
    return Ratio(hits, batch["labels"].numel())


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 30, (24, 6), generator=chance)
    padding = torch.arange(6) >= torch.randint(3, 6, (24, 1), generator=chance)
    batch = {
        "ids": ids.masked_fill(padding, 0),
        "labels": (ids % 4).masked_fill(padding, -100),
    }
    return Subject(
        Tagger(),
        [batch],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.05),
        metrics={"tag": right},
    )
