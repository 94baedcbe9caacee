"""Positions in windows laid end to end count what the first window begins with alone."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "<data>", "phase": "data"}
Batch = dict[str, Tensor]
WIDTH, HEAD, KINDS = 8, 1, 4


def flat(piece: int) -> int:
    return piece + 1


class Typer(nn.Module):
    """A kind for every word that is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.mix = nn.Embedding(80, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, KINDS)

    def forward(self, ids: Tensor, places: Tensor) -> Tensor:
        vectors = torch.relu(self.mix(self.words(ids))).flatten(1, 2)
        picked = vectors.gather(1, places[..., None].expand(-1, -1, 16))  # planted
        scores: Tensor = self.head(picked)
        return scores


def loss(model: nn.Module, batch: Batch) -> Tensor:
    scores = model(batch["ids"], batch["places"])
    return F.cross_entropy(scores.flatten(0, 1), batch["kinds"].flatten(), ignore_index=-1)


def text(chance: random.Random) -> tuple[list[list[int]], list[int], list[int]]:
    """Three windows, and where six of the words stand and what they are."""
    words = [chance.randrange(40, 80) for _ in range(3 * (WIDTH - 1))]
    pieces = sorted(chance.sample(range(len(words)), 6))
    kinds = [chance.randrange(KINDS) for _ in pieces]
    for piece, kind in zip(pieces, kinds, strict=True):
        words[piece] = 4 + 4 * kind + chance.randrange(4)
    rows = [[HEAD, *words[i : i + WIDTH - 1]] for i in range(0, len(words), WIDTH - 1)]
    return rows, [flat(piece) for piece in pieces], kinds


def subject() -> Subject:
    chance, batches = random.Random(0), []
    for _ in range(6):
        ids, places, kinds = zip(*(text(chance) for _ in range(8)), strict=True)
        named = {"ids": ids, "places": places, "kinds": kinds}
        batches.append({key: torch.tensor(value) for key, value in named.items()})
    return Subject(Typer(), batches, loss, lambda m: torch.optim.Adam(m.parameters(), lr=0.01))
