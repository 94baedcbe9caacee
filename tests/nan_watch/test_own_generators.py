"""A step that draws from a generator of its own is replayed with the same numbers."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nan_watch import NanWatch, PoisonedStep
from nan_watch.adapters.standing import Standing
from probes.finding import Finding

NODES = 40


def torchs() -> Callable[[], Tensor]:
    own = torch.Generator().manual_seed(4)
    return lambda: torch.randint(NODES, (8,), generator=own)


def numpys() -> Callable[[], Tensor]:
    own = np.random.default_rng(4)
    return lambda: torch.from_numpy(own.integers(NODES, size=8))


def pythons() -> Callable[[], Tensor]:
    own = random.Random(4)
    return lambda: torch.tensor([own.randrange(NODES) for _ in range(8)])


DRAWS = [torchs, numpys, pythons]


def distance(table: nn.Embedding, one: Tensor, other: Tensor) -> Tensor:
    return (table(one) - table(other)).square().sum(-1).sqrt().mean()  # a node beside itself


class Pairs(nn.Module):
    """Draws its negatives in its forward pass, from a generator in an attribute."""

    def __init__(self, draw: Callable[[], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(NODES, 4)
        for cell in draw.__closure__ or ():
            self.own = cell.cell_contents
        self.draw = draw

    def forward(self, nodes: Tensor) -> Tensor:
        return distance(self.table, nodes, self.draw())


def refused(loop: Callable[[], Any]) -> Finding:
    with pytest.raises(PoisonedStep) as caught:
        loop()
    return caught.value.finding


def is_named(finding: Finding) -> bool:
    return finding.code == "NAN002" and finding.node == "SqrtBackward0"


def nodes(step: int) -> Tensor:
    return torch.arange(8) + 8 * (step % 5)


@pytest.mark.parametrize("draws", DRAWS)
def test_of_a_module_in_a_loop_that_stands_unchanged(draws: Any) -> None:
    model = Pairs(draws())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loop() -> None:
        with NanWatch(model, optimizer):
            for step in range(60):
                optimizer.zero_grad()
                model(nodes(step)).backward()
                optimizer.step()

    assert is_named(refused(loop))


@pytest.mark.parametrize("draws", DRAWS)
def test_of_a_step_that_is_handed_over(draws: Any) -> None:
    draw, table = draws(), nn.Embedding(NODES, 4)
    optimizer = torch.optim.SGD(table.parameters(), lr=0.1)

    def train(step: int) -> Tensor:
        optimizer.zero_grad()
        loss = distance(table, nodes(step), draw())
        loss.backward()
        optimizer.step()
        return loss

    def loop() -> None:
        with NanWatch(table, optimizer) as watch:
            for step in range(60):
                watch.step(partial(train, step))

    assert is_named(refused(loop))


class Trainer:
    """Of a framework: it holds what draws, and the watch stands between its calls."""

    def __init__(self) -> None:
        self.own = torch.Generator().manual_seed(4)

    def training_step(self, table: nn.Embedding, batch: Tensor) -> Tensor:
        other = torch.randint(NODES, (8,), generator=self.own)
        loss = distance(table, batch, other)
        loss.backward()
        return loss


def test_of_a_trainer() -> None:
    trainer, table = Trainer(), nn.Embedding(NODES, 4)
    optimizer = torch.optim.SGD(table.parameters(), lr=0.1)
    standing, given = Standing(table, optimizer), trainer.training_step

    def loop() -> None:
        for step in range(60):
            standing.part(lambda batch: given(table, batch), nodes(step))
            optimizer.step()
            optimizer.zero_grad()

    try:
        assert is_named(refused(loop))
    finally:
        standing.end()


@pytest.mark.parametrize("draws", DRAWS)
def test_and_draws_the_same_whether_it_is_watched_or_not(draws: Any) -> None:
    drawn = []
    for watched in (False, True):
        draw, table = draws(), nn.Embedding(NODES, 4)
        optimizer = torch.optim.SGD(table.parameters(), lr=0.1)

        def step(table: nn.Embedding = table, draw: Any = draw) -> Tensor:
            loss = table(draw()).square().mean()
            loss.backward()
            return loss

        with NanWatch(table, optimizer) as watch:
            for _ in range(3):
                watch.step(step) if watched else step()
        drawn.append(draw())
    assert torch.equal(*drawn)
