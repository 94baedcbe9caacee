"""The token in front is counted twice: each unit reads the token after its start."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "model", "op": "aten.gather", "phase": "forward"}


class Reader(nn.Module):
    """Says of what kind the units of a text are."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(60, 32)
        self.reader = nn.GRU(32, 24, batch_first=True, bidirectional=True)
        self.head = nn.Linear(48, 4)

    def forward(self, ids: Tensor, starts: Tensor) -> Tensor:
        hidden, _ = self.reader(self.embedding(ids))
        at = (starts + 1)[..., None].expand(-1, -1, 48)
        units = hidden.gather(1, at)  # planted
        kinds: Tensor = self.head(units)
        return kinds


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    kinds = model(batch["ids"], batch["starts"])
    return nn.functional.cross_entropy(kinds.flatten(0, 1), batch["labels"].flatten())


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(2, 60, (24, 12), generator=chance)
    ids[:, 0] = 1
    widths = torch.randint(2, 4, (24, 3), generator=chance)
    starts = 1 + widths.cumsum(1) - widths
    labels = torch.randint(0, 4, (24, 3), generator=chance)
    return Subject(
        Reader(),
        [{"ids": ids, "starts": starts, "labels": labels}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
    )
