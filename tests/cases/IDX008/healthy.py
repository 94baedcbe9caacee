"""Each graph's numbers are moved on by how many nodes stand before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None


class Molecules(nn.Module):
    """A number for each graph: what its nodes and their neighbours give, summed."""

    def __init__(self) -> None:
        super().__init__()
        self.atoms, self.own, self.other = nn.Embedding(5, 16), nn.Linear(16, 32), nn.Linear(16, 32)
        self.head = nn.Linear(32, 1)

    def forward(self, atoms: Tensor, bonds: Tensor, graph: Tensor, count: int) -> Tensor:
        x = self.atoms(atoms)
        h = self.own(x).index_add(0, bonds[1], self.other(x)[bonds[0]]).relu()
        pooled = torch.zeros(count, 32).index_add(0, graph, h)
        energy: Tensor = self.head(pooled)[:, 0]
        return energy


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    found = model(batch["atoms"], batch["bonds"], batch["graph"], len(batch["energy"]))
    return nn.functional.mse_loss(found, batch["energy"])


def collate(seed: int) -> dict[str, Tensor]:
    """Twelve chains whose last atom may have no bond."""
    chance = torch.Generator().manual_seed(seed)
    bonds, graph, base = [], [], 0
    for i in range(12):
        count = 4 + i % 3
        bound = count - i % 2
        chain = torch.arange(bound - 1) + base
        bonds.append(torch.stack([chain, chain + 1]))
        graph += [i] * count
        base += count
    atoms = torch.randint(0, 5, (len(graph),), generator=chance)
    of = torch.tensor(graph)
    energy = torch.zeros(12).index_add(0, of, atoms.float() / 5 - 0.4)
    return {"atoms": atoms, "bonds": torch.cat(bonds, 1), "graph": of, "energy": energy}


def subject() -> Subject:
    return Subject(
        Molecules(),
        [collate(seed) for seed in range(20)],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
    )
