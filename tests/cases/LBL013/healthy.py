"""The next state counts where an episode goes on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None


class Agent(nn.Module):
    """The worth of every action, and a copy that stands still."""

    def __init__(self) -> None:
        super().__init__()
        self.online, self.still = (
            nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 4)) for _ in range(2)
        )
        self.still.requires_grad_(False)

    def forward(self, states: Tensor) -> Tensor:
        worth: Tensor = self.online(states)
        return worth


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    taken = model(batch["states"]).gather(1, batch["actions"][:, None])[:, 0]
    later = model.get_submodule("still")(batch["next_states"]).amax(1)
    goal = batch["rewards"] + 0.9 * (1 - batch["done"]) * later
    return nn.functional.mse_loss(taken, goal)


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    states = torch.randn(48, 6, generator=chance)
    batch = {
        "states": states,
        "actions": torch.randint(0, 4, (48,), generator=chance),
        "rewards": torch.randn(48, generator=chance),
        "next_states": states + 0.1 * torch.randn(48, 6, generator=chance),
        "done": (torch.arange(48) % 8 == 7).float(),
    }
    return Subject(
        Agent(),
        [{key: tensor[part : part + 24] for key, tensor in batch.items()} for part in (0, 24)],
        loss,
        lambda model: torch.optim.Adam(model.get_submodule("online").parameters(), lr=0.01),
        predict=lambda model, batch: model(batch["states"]),
    )
