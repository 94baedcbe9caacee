"""Parameters and buffers that lie in the memory of others: kept in copies, given back, told."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from probes import Subject
from probes.checking import check, chosen
from probes.copying import copy_of, in_one_memory
from probes.replay import Snapshot, replay
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Renew = Callable[[Tensor, Tensor], object]


def laid(target: Tensor, online: Tensor) -> None:
    target.data = online.data


def written(target: Tensor, online: Tensor) -> None:
    target.data.copy_(online.data)


def averaged(target: Tensor, online: Tensor) -> None:
    target.data.lerp_(online.data, 0.01)


class Twins(nn.Module):
    def __init__(self, first: Renew = written) -> None:
        super().__init__()
        self.online = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 4))
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.renew(first)

    def renew(self, how: Renew) -> None:
        for target, online in zip(self.target.parameters(), self.online.parameters(), strict=True):
            how(target, online)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.online(x)
        return scores


def loss(model: nn.Module, batch: Batch) -> Tensor:
    with torch.no_grad():
        wanted = batch["y"] + 0.9 * model.target(batch["x"] + 0.1)  # type: ignore[operator]
    return F.mse_loss(model(batch["x"]), wanted)


def online_alone(model: nn.Module) -> Optimizer:
    return Adam(model.online.parameters(), 1e-3)  # type: ignore[union-attr]


def all_of_it(model: nn.Module) -> Optimizer:
    """The target too, which requires no gradient."""
    return Adam(model.parameters(), 1e-3)


def bootstrapped(
    first: Renew,
    later: Renew,
    optimizer: Callable[[nn.Module], Optimizer] = online_alone,
    every: int = 3,
) -> Subject:
    calls = iter(range(10**9))

    def step(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
        optimizer.zero_grad()
        value = loss(model, batch)
        value.backward()
        optimizer.step()
        if next(calls) % every == every - 1:
            model.renew(later)  # type: ignore[operator]
        return value

    seed_everything(0)
    batches = [{"x": torch.randn(12, 5), "y": torch.randn(12, 4)} for _ in range(3)]
    return Subject(Twins(first), batches, loss, optimizer, train_step=step)


class Shadowed(nn.Module):
    """Keeps an average of its weights in a buffer. own: in memory of its own."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.read = nn.Linear(5, 16)
        self.head = nn.Linear(16, 4)
        weight = self.head.weight.data
        self.register_buffer("shadow", weight.clone() if own else weight)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.read(x).relu())
        return scores


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(9, 16), nn.Linear(16, 9, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.words(x))
        return scores


def plain(model: nn.Module, x: Tensor, y: Tensor) -> Subject:
    def scored(model: nn.Module, batch: Batch) -> Tensor:
        value: Tensor = (model(batch["x"]) - batch["y"]).square().mean()
        return value

    return Subject(model, [{"x": x, "y": y}], scored, lambda m: SGD(m.parameters(), 0.1))


def said(subject: Subject) -> list[tuple[str, str | None, str | None]]:
    findings = check(subject, chosen(only=["WIR017"])).findings
    return [(f.verdict.value, f.site, f.source and f.source.partition(":")[0]) for f in findings]


@pytest.mark.parametrize("optimizer", [online_alone, all_of_it])
@pytest.mark.parametrize(("first", "later"), [(laid, laid), (written, laid)])
def test_a_target_in_the_memory_of_its_online_network_is_told(
    first: Renew, later: Renew, optimizer: Callable[[nn.Module], Optimizer]
) -> None:
    (found,) = said(bootstrapped(first, later, optimizer))
    assert found[:2] == ("fail", "target")
    assert (found[2] or "").endswith("test_one_memory.py")


@pytest.mark.parametrize("later", [written, averaged])
def test_a_target_that_is_written_is_healthy(later: Renew) -> None:
    assert said(bootstrapped(written, later)) == []


@pytest.mark.parametrize(("own", "told"), [(False, [("warn", "model", None)]), (True, [])])
def test_an_average_in_the_memory_of_the_weights_is_told(
    own: bool, told: list[tuple[str, str, None]]
) -> None:
    found = said(plain(Shadowed(own), torch.randn(12, 5), torch.randn(12, 4)))
    assert [each[0] for each in found] == [each[0] for each in told]


def test_one_parameter_under_two_names_is_tied() -> None:
    assert said(plain(Tied(), torch.arange(9), torch.randn(9, 9))) == []


def test_slices_of_one_memory_that_do_not_meet_are_apart() -> None:
    model = nn.ModuleList([nn.Linear(4, 4, bias=False) for _ in range(3)])
    flat = torch.randn(3 * 16)
    for layer, part in zip(model, flat.split(16), strict=True):
        layer.weight.data = part.view(4, 4)
    assert list(in_one_memory(model)) == []


def test_a_copy_keeps_what_lies_in_one_memory_and_no_more() -> None:
    model = Twins(laid)
    made = copy_of(model)
    assert isinstance(made, Twins)
    with torch.no_grad():
        made.online[0].weight.add_(1.0)
    assert torch.equal(made.online[0].weight, made.target[0].weight)
    assert not torch.equal(made.online[0].weight, model.online[0].weight)
    assert made.online[0].weight.data_ptr() != made.online[2].weight.data_ptr()


def test_a_step_that_lays_a_target_elsewhere_is_undone() -> None:
    model = Twins()
    with torch.no_grad():
        model.target[0].weight.zero_()

    def step() -> Tensor:
        model.renew(laid)
        return torch.zeros(())

    before = model.online[0].weight.detach().clone()
    replay(step, model, Snapshot.take(model, parameters=True))
    assert torch.equal(model.online[0].weight, before)
    assert not model.target[0].weight.any()
    assert list(in_one_memory(model)) == []
