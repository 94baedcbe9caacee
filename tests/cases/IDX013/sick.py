"""Each field begins at the size of the field before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "table", "phase": "forward"}
SIZES = [7, 12, 5, 20]


class Fields(nn.Module):
    """Four fields of ids in one table."""

    starts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("starts", torch.tensor([0, *SIZES[:-1]]))
        self.table = nn.Embedding(sum(SIZES), 32)
        self.head = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 2))

    def forward(self, fields: Tensor) -> Tensor:
        scores: Tensor = self.head(self.table(fields + self.starts).flatten(1))
        return scores


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["fields"]), batch["clicked"])


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    fields = torch.stack([torch.randint(0, n, (60,), generator=chance) for n in SIZES], 1)
    clicked = (fields[:, 1] + fields[:, 3]) % 2
    return Subject(
        Fields(),
        [{"fields": fields, "clicked": clicked}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
    )
