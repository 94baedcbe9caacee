"""Averages and copies of what learns, with statistics of their own, or of nobody."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import FunctionType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Optimizer, swa_utils

from probes import Subject
from probes.checking import check, chosen
from probes.seeding import seed_everything

Batch = dict[str, Tensor]


def network(norm: Callable[[int], nn.Module] = nn.BatchNorm1d) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 24), norm(24), nn.ReLU(), nn.Linear(24, 4))


class Twins(nn.Module):
    def __init__(self, net: nn.Module, other: nn.Module | None = None) -> None:
        super().__init__()
        self.net = net
        self.other = copy.deepcopy(net).requires_grad_(False) if other is None else other

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.net(x)
        return scores


def averaged(model: Twins, count: int) -> None:
    for own, learned in zip(model.other.parameters(), model.net.parameters(), strict=True):
        own.lerp_(learned, 0.1)


def slowly(model: Twins, count: int) -> None:
    for own, learned in zip(model.other.parameters(), model.net.parameters(), strict=True):
        own.data = 0.9999 * own.data + 0.0001 * learned.data


def copied_at_times(model: Twins, count: int) -> None:
    if count % 5 == 4:
        for own, learned in zip(model.other.parameters(), model.net.parameters(), strict=True):
            own.copy_(learned)


def all_of_it(model: Twins, count: int) -> None:
    if count % 5 == 4:
        model.other.load_state_dict(model.net.state_dict())


def by_torch(model: Twins, count: int) -> None:
    assert isinstance(model.other, swa_utils.AveragedModel)
    model.other.update_parameters(model.net)


def not_at_all(model: Twins, count: int) -> None:
    """A teacher that stands still."""


def by_other(model: nn.Module, batch: Batch) -> Tensor:
    scores: Tensor = model.other(batch["x"])  # type: ignore[operator]
    return scores


def by_net(model: nn.Module, batch: Batch) -> Tensor:
    scores: Tensor = model(batch["x"])
    return scores


def renewed(model: nn.Module, batch: Batch) -> Tensor:
    """With statistics of the batch."""
    assert isinstance(model.other, nn.Module)
    scores: Tensor = model.other.train()(batch["x"])
    return scores


def said(
    renew: Callable[[Twins, int], None],
    predict: Callable[[nn.Module, Batch], Tensor] = by_other,
    model: Callable[[], Twins] = lambda: Twins(network()),
    runs: bool = False,
) -> list[tuple[str, str | None]]:
    """runs: the other network runs in training, in the net's mode."""
    calls = iter(range(10**9))

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        value = F.cross_entropy(model(batch["x"]), batch["label"])
        if runs:
            with torch.no_grad():
                wanted = by_other(model, batch).softmax(1)
            value = value + F.cross_entropy(model(batch["x"] + 0.1), wanted)
        return value

    def step(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
        assert isinstance(model, Twins)
        optimizer.zero_grad()
        value = loss(model, batch)
        value.backward()
        optimizer.step()
        with torch.no_grad():
            renew(model, next(calls))
        return value.detach()

    seed_everything(0)
    x = 1.0 + 2.0 * torch.randn(48, 8)
    label = (x @ torch.randn(8, 4)).argmax(1)
    batches = [{"x": a, "label": b} for a, b in zip(x.split(16), label.split(16), strict=True)]
    subject = Subject(
        model(), batches, loss, lambda m: SGD(m.parameters(), 0.05), predict, train_step=step
    )
    judged = check(subject, chosen(only=["WIR058"]))
    assert not judged.not_judged
    return [(f.verdict.value, f.site) for f in judged.findings]


@pytest.mark.parametrize("renew", [averaged, slowly, copied_at_times])
def test_statistics_that_are_left_behind_are_told(renew: Callable[[Twins, int], None]) -> None:
    assert said(renew) == [("warn", "other")]


def test_statistics_that_may_be_to_come_are_a_note() -> None:
    known = FunctionType(by_other.__code__, {**globals(), "renew": swa_utils.update_bn})
    assert said(averaged, known) == [("note", "other")]


def test_torchs_own_average_keeps_the_statistics() -> None:
    def model() -> Twins:
        net = network()
        return Twins(net, swa_utils.AveragedModel(net).requires_grad_(False))

    assert said(by_torch, model=model) == []


@pytest.mark.parametrize("renew", [all_of_it, not_at_all])
def test_what_is_copied_as_a_whole_or_stands_still_is_healthy(
    renew: Callable[[Twins, int], None],
) -> None:
    assert said(renew) == []


def test_an_average_that_runs_in_training_has_statistics_of_its_own() -> None:
    assert said(averaged, runs=True) == []


@pytest.mark.parametrize("predict", [by_net, renewed])
def test_an_average_that_evaluation_does_not_use_as_it_is_is_not_told(
    predict: Callable[[nn.Module, Batch], Tensor],
) -> None:
    assert said(averaged, predict) == []


def test_a_network_without_statistics_is_healthy() -> None:
    assert said(averaged, model=lambda: Twins(network(nn.LayerNorm))) == []


def test_statistics_that_are_frozen_in_what_learns_are_healthy() -> None:
    class Frozen(nn.BatchNorm1d):
        def train(self, mode: bool = True) -> Frozen:
            return super().train(False)

    assert said(averaged, model=lambda: Twins(network(Frozen).train())) == []


class Kept:
    """An average beside the model, which is no module itself."""

    def __init__(self, net: nn.Module, buffers: bool) -> None:
        self.module = copy.deepcopy(net).requires_grad_(False).eval()
        self.buffers = buffers

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        for own, learned in zip(self.module.parameters(), net.parameters(), strict=True):
            own.lerp_(learned, 0.1)
        if self.buffers:
            for its, known in zip(self.module.buffers(), net.buffers(), strict=True):
                its.copy_(known)


def beside(buffers: bool) -> tuple[Subject, Kept]:
    seed_everything(0)
    model = network()
    ema = Kept(model, buffers)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch["x"]), batch["label"])

    def step(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
        optimizer.zero_grad()
        value = loss(model, batch)
        value.backward()
        optimizer.step()
        ema.update(model)
        return value.detach()

    def predict(model: nn.Module, batch: Batch) -> Tensor:
        scores: Tensor = ema.module(batch["x"])
        return scores

    x = 1.0 + 2.0 * torch.randn(16, 8)
    batches = [{"x": x, "label": (x @ torch.randn(8, 4)).argmax(1)}]
    subject = Subject(
        model, batches, loss, lambda m: SGD(m.parameters(), 0.05), predict, train_step=step
    )
    return subject, ema


@pytest.mark.parametrize(("buffers", "told"), [(False, ["ema.module"]), (True, [])])
def test_an_average_beside_the_model_is_told(buffers: bool, told: list[str]) -> None:
    subject, _ = beside(buffers)
    assert [f.site for f in check(subject, chosen(only=["WIR058"])).findings] == told


def test_steps_of_all_checks_give_back_what_stands_beside_the_model() -> None:
    subject, ema = beside(buffers=True)
    before = {name: each.clone() for name, each in ema.module.state_dict().items()}
    found = check(subject, chosen()).findings
    assert [f.code for f in found if f.verdict.value != "note"] == []
    assert all(torch.equal(each, before[n]) for n, each in ema.module.state_dict().items())
