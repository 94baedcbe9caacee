"""What each node's neighbours give is added up at the node."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None


class Layer(nn.Module):
    """What a node is, and the mean of what its neighbours are."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.own, self.other = nn.Linear(width, out), nn.Linear(width, out, bias=False)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        source, end = edges
        ones = torch.ones(end.shape[0], device=x.device)
        count = torch.zeros(len(x), device=x.device).index_add(0, end, ones)
        total = torch.zeros_like(x).index_add(0, end, x[source])
        found: Tensor = self.own(x) + self.other(total / count.clamp(min=1)[:, None])
        return found


class Graph(nn.Module):
    """A number for each node."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = Layer(6, 32), nn.Linear(32, 1)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        found: Tensor = self.head(self.layer(x, edges).relu())[:, 0]
        return found


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.mse_loss(model(batch["x"], batch["edges"]), batch["heat"])


def graph(seed: int) -> dict[str, Tensor]:
    """Twenty nodes with three edges to each, and the mean of what stands at their other ends."""
    chance = torch.Generator().manual_seed(seed)
    x = torch.randn(20, 6, generator=chance)
    start = torch.stack([torch.randperm(20, generator=chance)[:3] for _ in range(20)])
    edges = torch.stack([start.flatten(), torch.arange(20).repeat_interleave(3)])
    return {"x": x, "edges": edges, "heat": x[start].mean(1)[:, 0] + 0.3 * x[:, 1]}


def subject() -> Subject:
    return Subject(
        Graph(),
        [graph(seed) for seed in range(20)],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
    )
