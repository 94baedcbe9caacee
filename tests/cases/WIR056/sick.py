"""Each sample's row gives the values of the actions of all samples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "<loss>", "op": "aten.index", "phase": "forward"}


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    values = model(batch["obs"])
    taken = values[:, batch["action"]]  # planted
    return (taken - batch["returns"]).square().mean()


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    obs = torch.randn(24, 6, generator=chance)
    action = torch.randint(0, 3, (24,), generator=chance)
    returns = obs[torch.arange(24), action] + 0.1 * torch.randn(24, generator=chance)
    return Subject(
        nn.Sequential(nn.Linear(6, 64), nn.Tanh(), nn.Linear(64, 3)),
        [{"obs": obs, "action": action, "returns": returns}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
    )
