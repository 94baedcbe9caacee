"""Pictures whose names are sorted by their numbers, as the table of labels is."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from probes import Subject

CHECK = True
PLANTED = None
COUNT = 120


def folder() -> tuple[dict[str, Tensor], list[int]]:
    """Pictures by name, brighter in one of four corners, and which by number."""
    chance = torch.Generator().manual_seed(0)
    kinds = torch.randint(0, 4, (COUNT,), generator=chance).tolist()
    pictures = {}
    for i, kind in enumerate(kinds):
        picture = 0.3 * torch.randn(1, 8, 8, generator=chance)
        row, column = 4 * (kind // 2), 4 * (kind % 2)
        picture[:, row : row + 4, column : column + 4] += 1
        pictures[f"{i}.png"] = picture
    return pictures, kinds


def subject() -> Subject:
    pictures, kinds = folder()
    names = sorted(pictures, key=lambda name: int(name.removesuffix(".png")))
    inputs = torch.stack([pictures[name] for name in names])
    return Subject(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)),
        DataLoader(TensorDataset(inputs, torch.tensor(kinds)), 12, shuffle=True),
        lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]),
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
    )
