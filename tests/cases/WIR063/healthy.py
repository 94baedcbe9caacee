"""An actor and a critic: the advantage is cut off from the value in it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from probes import Subject

CHECK = True
PLANTED = None


class ActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(8, 64)
        self.policy = nn.Linear(64, 4)
        self.value = nn.Linear(64, 1)

    def forward(self, observed: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(observed).tanh()
        return self.policy(h), self.value(h).squeeze(-1)


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    logits, value = model(batch["observed"])
    advantage = batch["returns"] - value.detach()
    log_prob = Categorical(logits=logits).log_prob(batch["action"])
    actor = -(log_prob * advantage).mean()
    return actor + 0.5 * nn.functional.mse_loss(value, batch["returns"])


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    observed = torch.randn(24, 8, generator=chance)
    action = torch.randint(0, 4, (24,), generator=chance)
    good = (action == observed[:, :4].argmax(-1)).float()
    return Subject(
        ActorCritic(),
        [{"observed": observed, "action": action, "returns": good + 0.5 * observed[:, 5]}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
    )
