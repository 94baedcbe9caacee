"""What was read from the end stands in that order beside what was read from the start."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "model", "phase": "forward"}


class Tagger(nn.Module):
    """A tag for every token, by two cells, one from either end."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.on, self.back = nn.GRUCell(32, 32), nn.GRUCell(32, 32)
        self.head = nn.Linear(64, 4)

    def forward(self, ids: Tensor) -> Tensor:
        steps = self.embedding(ids).unbind(1)
        one = two = torch.zeros(len(ids), 32)
        on, back = [], []
        for step, mirrored in zip(steps, steps[::-1], strict=True):
            one, two = self.on(step, one), self.back(mirrored, two)
            on.append(one)
            back.append(two)
        read = torch.cat([torch.stack(on, 1), torch.stack(back, 1)], -1)  # planted
        tags: Tensor = self.head(read)
        return tags


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["ids"]).flatten(0, 1), batch["tags"].flatten())


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 50, (24, 8), generator=chance)
    tags = (ids + ids.roll(-1, 1)) % 4
    return Subject(
        Tagger(),
        [{"ids": ids, "tags": tags}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
    )
