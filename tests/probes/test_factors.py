"""Schedules that give a rate where a factor is asked for, and those that are low on purpose."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LambdaLR,
    LRScheduler,
    SequentialLR,
)

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Schedule = Callable[[Optimizer], LRScheduler]


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["labels"])


def batch() -> Batch:
    chance = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (16,), generator=chance)
    return {"x": torch.randn(16, 8, generator=chance), "labels": labels}


def said(lr: float, schedule: Schedule, *lower: float) -> list[Finding]:
    """lower: the rates of further groups."""
    seed_everything(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    rates = [lr, *lower]

    def optimizer(model: nn.Module) -> Optimizer:
        layers = [model[0], model[2]]
        parts = layers if lower else [model]
        groups = [
            {"params": list(part.parameters()), "lr": rate, "initial_lr": rate}
            for part, rate in zip(parts, rates, strict=True)
        ]
        return torch.optim.SGD(groups)

    subject = Subject(model, [batch()], loss, optimizer, schedule=schedule)
    return list(check(subject, chosen(["WIR008"])).findings)


def noam(step: int) -> float:
    return float(0.2 * 64**-0.5 * min((step + 1) ** -0.5, (step + 1) * 100**-1.5))


def warmed(to: float) -> Callable[[int], float]:
    return lambda step: to * min(1.0, (step + 1) / 20)


@pytest.mark.parametrize(
    ("rates", "schedule", "again"),
    [
        ([4e-3], lambda over: LambdaLR(over, warmed(4e-3)), True),
        ([0.2], lambda over: LambdaLR(over, warmed(0.2)), True),
        ([5e-2, 1e-2], lambda over: LambdaLR(over, [warmed(5e-2), warmed(1e-2)]), True),
        ([3e-4], lambda over: LambdaLR(over, noam), False),
    ],
)
def test_a_function_that_gives_the_rate_itself_is_told(
    rates: list[float], schedule: Schedule, again: bool
) -> None:
    [found] = said(rates[0], schedule, *rates[1:])
    assert "never gets above" in found.message
    assert ("which is that rate again" in found.message) == again
    assert found.source is not None
    assert "test_factors.py" in found.source


@pytest.mark.parametrize(
    ("rates", "schedule"),
    [
        ([4e-3], lambda over: LambdaLR(over, warmed(1.0))),
        ([1e-3], lambda over: LambdaLR(over, lambda step: min(1.0, (step + 1) / 4000))),
        ([1.0], lambda over: LambdaLR(over, noam)),
        ([0.5], lambda over: LambdaLR(over, noam)),  # a factor of its own
        ([1e-2], lambda over: LambdaLR(over, lambda step: 0.01 if step < 900 else 1.0)),
        ([1e-2], lambda over: ConstantLR(over, 0.01, 800)),
        ([1e-3], lambda over: CosineAnnealingLR(over, 400, eta_min=1e-6)),
        ([1e-2, 1e-2], lambda over: LambdaLR(over, [lambda _: 0.01, lambda _: 1.0])),
        (  # taken up near its end
            [1e-2],
            lambda over: LambdaLR(over, lambda step: math.exp(-step / 100), last_epoch=600),
        ),
        (
            [1e-2],
            lambda over: SequentialLR(
                over,
                [LambdaLR(over, lambda step: 1e-2 * step), LambdaLR(over, lambda _: 1.0)],
                [90],
            ),
        ),
    ],
)
def test_a_rate_that_is_low_for_a_while_or_at_the_end_is_well(
    rates: list[float], schedule: Schedule
) -> None:
    assert said(rates[0], schedule, *rates[1:]) == []


@pytest.mark.parametrize(("by", "told"), [(2e-3, True), (1.0, False)])
def test_a_schedule_that_the_step_itself_steps_is_judged_so_too(by: float, told: bool) -> None:
    seed_everything(0)
    schedules: list[LRScheduler] = []

    def optimizer(model: nn.Module) -> Optimizer:
        over = torch.optim.SGD(model.parameters(), lr=2e-3)
        schedules[:] = [LambdaLR(over, lambda step: by * max(0.1, 1 - step / 2000))]
        return over

    def train_step(model: nn.Module, batch: Batch, over: Optimizer) -> Tensor:
        over.zero_grad()
        found = loss(model, batch)
        found.backward()
        over.step()
        schedules[0].step()
        return found

    subject = Subject(nn.Linear(8, 3), [batch()], loss, optimizer, train_step=train_step)
    found = check(subject, chosen(["WIR008"])).findings
    assert [("which is that rate again" in each.message) for each in found] == [True] * told
