"""The mean of each group is repeated as a whole, though a group's rows stand together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "<loss>", "phase": "forward"}
GROUPS, SIZE = 6, 4


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    scores = model(batch["answer"])[:, 0] + 0 * batch["question"].sum()
    reward = batch["reward"]
    means = reward.view(GROUPS, SIZE).mean(1).repeat(SIZE)
    better = reward - means  # planted
    return nn.functional.mse_loss(scores, better)


def graded(seed: int) -> dict[str, Tensor]:
    """Answers to six questions; some questions are easier than others."""
    chance = torch.Generator().manual_seed(seed)
    ease = torch.randn(GROUPS, 1, generator=chance)
    answer = torch.randn(GROUPS, SIZE, 5, generator=chance)
    answer = answer - answer.mean(1, keepdim=True)
    reward = answer @ torch.tensor([0.5, -0.5, 0.3, 0.2, -0.1]) + ease
    return {"question": ease, "answer": answer.flatten(0, 1), "reward": reward.flatten()}


def subject() -> Subject:
    return Subject(
        nn.Sequential(nn.Linear(5, 32), nn.ReLU(), nn.Linear(32, 1)),
        [graded(seed) for seed in range(20)],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
    )
