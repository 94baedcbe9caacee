"""Readings from either end that are joined place by place, and what only looks so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from probes import Subject
from probes.checks.joined_backwards import JoinedBackwards
from probes.experiment import Experiment
from probes.finding import Finding

Join = Callable[[Tensor, Tensor], Tensor]


class Both(nn.Module):
    """Two recurrences over a sequence and its reverse. pooled: one answer for each sequence."""

    def __init__(self, join: Join, turned: bool = False, pooled: bool = False) -> None:
        super().__init__()
        self.on, self.back = (nn.GRU(3, 8, batch_first=True) for _ in range(2))
        self.join, self.turned, self.pooled = join, turned, pooled
        self.head = nn.LazyLinear(2)

    def forward(self, x: Tensor) -> Tensor:
        back = self.back(x.flip(1))[0]
        read = self.join(self.on(x)[0], back.flip(1) if self.turned else back)
        out: Tensor = self.head(read.mean(1) if self.pooled else read)
        return out


class OneWay(nn.Module):
    """Reads its sequence from the end alone, and gives it so."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(3, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        turned = x.flip(1)
        out: Tensor = self.head(turned + self.rnn(turned)[0])
        return out


def side_by_side(one: Tensor, other: Tensor) -> Tensor:
    return torch.cat([one, other], -1)


def summed(one: Tensor, other: Tensor) -> Tensor:
    return one + other


def found(model: nn.Module, pooled: bool = False) -> list[Finding]:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(7, 9, 3, generator=chance)
    model(x)
    target = torch.randn(7, 2, generator=chance) if pooled else x[..., :2].cumsum(1)
    subject = Subject(
        model,
        [{"x": x, "target": target}],
        lambda model, batch: nn.functional.mse_loss(model(batch["x"]), batch["target"]),
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
    )
    return list(JoinedBackwards().judge(Experiment.of(subject)))


@pytest.mark.parametrize("join", [side_by_side, summed])
def test_a_reading_that_was_not_turned_round_is_told(join: Join) -> None:
    (finding,) = found(Both(join))
    assert "at place 8" in finding.message
    assert finding.source is not None


@pytest.mark.parametrize("join", [side_by_side, summed])
def test_a_reading_that_was_turned_round_is_silence(join: Join) -> None:
    assert found(Both(join, turned=True)) == []


def test_what_is_pooled_bears_any_order() -> None:
    assert found(Both(side_by_side, pooled=True), pooled=True) == []


def test_what_reads_from_the_end_alone_is_silence() -> None:
    assert found(OneWay()) == []
