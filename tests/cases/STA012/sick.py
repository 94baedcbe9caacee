"""The hidden state alone is cleared before the first step of an episode."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "cell", "phase": "forward"}


class Policy(nn.Module):
    """A recurrent policy over rows that hold several episodes."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(4, 32)
        self.act = nn.Linear(32, 2)

    def forward(self, seen: Tensor, first: Tensor) -> Tensor:
        given = []
        h, c = seen.new_zeros(2, len(seen), 32)
        for t in range(seen.shape[1]):
            keep = 1 - first[:, t, None].to(seen)
            h, c = self.cell(seen[:, t], (h * keep, c))  # planted
            given.append(self.act(h))
        return torch.stack(given, 1)


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    scores = model(batch["seen"], batch["first"])
    return nn.functional.cross_entropy(scores.flatten(0, 1), batch["action"].flatten())


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    seen = torch.randn(24, 8, 4, generator=chance)
    first = torch.rand(24, 8, generator=chance) < 0.3
    first[:, 0] = True
    action, goal = torch.zeros(24, 8, dtype=torch.long), torch.zeros(24, dtype=torch.long)
    for t in range(8):
        goal = torch.where(first[:, t], (seen[:, t, 0] > 0).long(), goal)
        action[:, t] = goal
    return Subject(
        Policy(),
        [{"seen": seen, "first": first, "action": action}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
    )
