"""The same with all of the model in DistributedDataParallel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

PLANTED = None
RANKS = 2


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder: nn.Module = nn.Sequential(nn.Linear(6, 16), nn.Tanh())
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(x))
        return logits


def parallel(model: Net) -> nn.Module:
    return DistributedDataParallel(model)


def build(rank: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = parallel(Net())
    return model, torch.optim.Adam(model.parameters(), lr=1e-2)


def train(rank: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    chance = torch.Generator().manual_seed(rank)
    for _ in range(4):
        x = torch.randn(8, 6, generator=chance)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long()).backward()
        optimizer.step()
