"""Positions over windows that are laid end to end, each with an id of its own in front."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding
from probes.seeding import seed_everything

WIDTH, WINDOWS, HEAD = 8, 4, 1
Pieces = Callable[[random.Random, int], list[int]]
Flat = Callable[[Tensor], Tensor]


def short(p: Tensor) -> Tensor:
    return p + 1


def counted(p: Tensor) -> Tensor:
    return p + 1 + p // (WIDTH - 1)


class Picker(nn.Module):
    """Scores of the tokens at `flat` of what the batch names."""

    def __init__(self, flat: Flat) -> None:
        super().__init__()
        self.flat = flat
        self.words, self.head = nn.Embedding(80, 16), nn.Linear(16, 4)

    def forward(self, ids: Tensor, at: Tensor) -> Tensor:
        vectors = self.words(ids).flatten(1, 2)
        rows = torch.arange(len(at))[:, None]
        scores: Tensor = self.head(vectors[rows, self.flat(at)])
        return scores


def some(chance: random.Random, n: int) -> list[int]:
    return sorted(chance.sample(range(n), 8))


def said(
    in_data: Flat, in_model: Flat = lambda p: p, pieces: Pieces = some, by_chance: bool = False
) -> list[Finding]:
    seed_everything(0)
    chance, batches, length = random.Random(0), [], WINDOWS * (WIDTH - 1)
    for _ in range(6):
        places = torch.tensor([pieces(chance, length) for _ in range(8)])
        words = torch.randint(4, 80, (8, length))
        kinds = (words % 4).gather(1, places.clamp(0, length - 1))
        kinds = torch.randint(0, 4, kinds.shape) if by_chance else kinds
        ids = F.pad(words.view(8, WINDOWS, WIDTH - 1), (1, 0), value=HEAD)
        batches.append({"ids": ids, "at": in_data(places), "kinds": kinds})
    subject = Subject(
        Picker(in_model),
        batches,
        lambda m, b: F.cross_entropy(m(b["ids"], b["at"]).flatten(0, 1), b["kinds"].flatten()),
        lambda m: torch.optim.Adam(m.parameters()),
    )
    return list(check(subject, chosen(["IDX020"])).findings)


@pytest.mark.parametrize("by_chance", [False, True])
def test_the_data_or_the_model_counts_no_later_head(by_chance: bool) -> None:
    (one,) = said(short, by_chance=by_chance)
    assert one.site == "<data>"
    assert one.message.startswith("`at` names")
    (one,) = said(lambda p: p, short, by_chance=by_chance)
    assert one.site == "model"
    assert one.message.startswith("what picks tokens names")


@pytest.mark.parametrize("by_chance", [False, True])
def test_positions_that_count_every_head_are_well(by_chance: bool) -> None:
    assert not said(counted, by_chance=by_chance)
    assert not said(lambda p: p, counted, by_chance=by_chance)


def test_heads_and_any_tokens_may_be_what_is_asked_for() -> None:
    assert not said(lambda p: p * WIDTH, pieces=lambda chance, n: list(range(WINDOWS)))
    flat = WINDOWS * WIDTH
    assert not said(lambda p: p, pieces=lambda chance, n: list(range(flat)), by_chance=True)
    assert not said(
        lambda p: p, pieces=lambda chance, n: chance.sample(range(flat), 8), by_chance=True
    )
