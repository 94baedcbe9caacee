"""Clipping beside a GradScaler: what cuts gradients by their scale, and what knows of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import SGD, Adam, Optimizer

from probes import Subject, Verdict
from probes.checking import check, chosen
from probes.finding import Finding
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Clip = Callable[[nn.Module, GradScaler, Optimizer], object]


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch["x"]), batch["y"])


def grads(model: nn.Module) -> list[Tensor]:
    return [p.grad for p in model.parameters() if p.grad is not None]


def norm(model: nn.Module) -> Tensor:
    whole: Tensor = torch.cat([grad.flatten() for grad in grads(model)]).norm()
    return whole


def by_norm(model: nn.Module, scaler: GradScaler, optimizer: Optimizer) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), 0.5)  # by_norm


def by_value(model: nn.Module, scaler: GradScaler, optimizer: Optimizer) -> None:
    nn.utils.clip_grad_value_(model.parameters(), 0.05)  # by_value


def in_place(model: nn.Module, scaler: GradScaler, optimizer: Optimizer) -> None:
    for grad in grads(model):
        grad.div_(2)
    factor = min(1.0, 0.5 / float(norm(model)))
    for grad in grads(model):
        grad.mul_(factor)  # in_place


def anew(model: nn.Module, scaler: GradScaler, optimizer: Optimizer) -> None:
    for p in model.parameters():
        assert p.grad is not None
        p.grad = p.grad.clamp(-0.05, 0.05)  # anew


def unscaled_late(model: nn.Module, scaler: GradScaler, optimizer: Optimizer) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), 0.5)  # unscaled_late
    scaler.unscale_(optimizer)


def unscaled(model: nn.Module, scaler: GradScaler, optimizer: Optimizer) -> None:
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), 0.01)


def times_scale(model: nn.Module, scaler: GradScaler, optimizer: Optimizer) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), 0.01 * scaler.get_scale())


def logged(model: nn.Module, scaler: GradScaler, optimizer: Optimizer) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), float("inf"))


def averaged(model: nn.Module, scaler: GradScaler, optimizer: Optimizer) -> None:
    for grad in grads(model):
        grad.div_(4)


def back_again(model: nn.Module, scaler: GradScaler, optimizer: Optimizer) -> None:
    for grad in grads(model):
        grad.div_(scaler.get_scale())
    nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    for grad in grads(model):
        grad.mul_(scaler.get_scale())


CALLS = 3  # that add up before a step


def found(
    clip: Clip,
    scaler: GradScaler | None = None,
    optimizer: Callable[[nn.Module], Optimizer] = lambda m: SGD(m.parameters(), lr=0.1),
    adds_up: bool = False,
) -> list[Finding]:
    seed_everything(0)
    scaler = scaler or GradScaler("cpu", init_scale=2.0**12)
    counted = itertools.count(1)

    def step(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
        value = loss(model, batch)
        scaler.scale(value).backward()
        if not adds_up or next(counted) % CALLS == 0:
            clip(model, scaler, optimizer)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        return value.detach()

    batch = {"x": torch.randn(12, 5), "y": torch.randn(12, 2)}
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 2))
    before = scaler.get_scale()
    judged = check(Subject(model, [batch], loss, optimizer, train_step=step), chosen(["WIR061"]))
    assert judged.not_judged == ()
    assert scaler.get_scale() == before or before > 2.0**100
    return list(judged.findings)


@pytest.mark.parametrize("clip", [by_norm, by_value, in_place, anew, unscaled_late])
@pytest.mark.parametrize("adds_up", [False, True])
def test_what_cuts_scaled_gradients_is_told_with_its_line(clip: Clip, adds_up: bool) -> None:
    [told] = found(clip, adds_up=adds_up)
    assert told.verdict is Verdict.FAIL
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    name = clip.__name__
    line = next(i for i, text in enumerate(lines, 1) if text.endswith(f"# {name}"))
    assert (told.source or "").endswith(f".py:{line}")
    left, limit = told.evidence[0].value, told.evidence[0].limit
    assert isinstance(left, float)
    assert isinstance(limit, float)
    assert left < 0.01 < limit


def test_an_optimizer_that_takes_no_size_is_a_warning() -> None:
    [told] = found(by_norm, optimizer=lambda m: Adam(m.parameters(), lr=1e-3))
    assert told.verdict is Verdict.WARN


@pytest.mark.parametrize("clip", [unscaled, times_scale, logged, averaged, back_again])
@pytest.mark.parametrize("adds_up", [False, True])
def test_what_cuts_the_same_at_every_scale_is_right(clip: Clip, adds_up: bool) -> None:
    assert found(clip, adds_up=adds_up) == []


def test_a_scaler_that_is_switched_off_scales_nothing() -> None:
    assert found(by_norm, GradScaler("cpu", enabled=False)) == []
    assert found(by_norm, GradScaler("cpu", init_scale=1.0)) == []


@pytest.mark.parametrize(("clip", "told"), [(by_norm, 1), (unscaled, 0)])
def test_a_scale_that_overflows_at_first_is_waited_for(clip: Clip, told: int) -> None:
    scaler = GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-3)
    assert len(found(clip, scaler)) == told
