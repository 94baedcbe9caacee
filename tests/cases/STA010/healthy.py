"""A step stands where the pass over all places has it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None


class Summing(nn.Module):
    """A class at every place, of the running sum of what was read and of where it stands."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 32)
        self.places = nn.Embedding(16, 32)
        self.head = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4))

    def forward(self, ids: Tensor, past: int = 0, before: Tensor | None = None) -> Tensor:
        places = torch.arange(ids.shape[1]) + past
        read = self.embedding(ids).cumsum(1)
        known = read if before is None else read + self.embedding(before).sum(1, keepdim=True)
        scores: Tensor = self.head(known + self.places(places))
        return scores


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["ids"]).flatten(0, 1), batch["tags"].flatten())


def predict(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    ids = batch["ids"]
    steps = [model(ids[:, :1])]
    for t in range(1, ids.shape[1]):
        steps.append(model(ids[:, t : t + 1], t, ids[:, :t]))
    return {"scores": model(ids), "step_scores": torch.cat(steps, 1)}


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 40, (24, 6), generator=chance)
    tags = torch.randint(0, 4, (24, 6), generator=chance)
    return Subject(
        Summing(),
        [{"ids": ids, "tags": tags}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
        predict=predict,
    )
