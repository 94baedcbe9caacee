"""The kind of a word that is asked for, whose place leaves the start token out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "model", "op": "aten.index", "phase": "forward"}
START, PAD = 0, 1


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(32, 32), nn.Embedding(12, 32)
        self.mixed = nn.Conv1d(32, 32, 3, padding=1)
        self.head = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4))

    def forward(self, ids: Tensor, keep: Tensor, place: Tensor) -> Tensor:
        vectors = (self.words(ids) + self.places.weight[: ids.shape[1]]) * keep[..., None]
        hidden = vectors + 0.1 * self.mixed(vectors.transpose(1, 2)).transpose(1, 2)
        scores: Tensor = self.head(hidden[torch.arange(len(ids)), place])  # planted
        return scores


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    scores = model(batch["ids"], batch["mask"], batch["place"])
    return nn.functional.cross_entropy(scores, batch["labels"])


def made(first: int) -> list[dict[str, Tensor]]:
    """Batches of words from 12 on, one of them from 2 to 9. first: the place of the first word."""
    chance, batches = torch.Generator().manual_seed(0), []
    for _ in range(10):
        lengths = torch.randint(6, 12, (16,), generator=chance)
        at = (torch.rand(16, generator=chance) * lengths).long()
        names = torch.randint(2, 10, (16,), generator=chance)
        words = torch.randint(12, 32, (16, 11), generator=chance)
        words[torch.arange(16), at] = names
        words[torch.arange(11) >= lengths[:, None]] = PAD
        ids = torch.cat([torch.full((16, 1), START), words], 1)
        batch = {"ids": ids, "mask": ids != PAD, "place": at + first, "labels": names % 4}
        batches.append(batch)
    return batches


def subject() -> Subject:
    return Subject(
        Net(), made(0), loss, lambda model: torch.optim.Adam(model.parameters(), lr=0.01)
    )
