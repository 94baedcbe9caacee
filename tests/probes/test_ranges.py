"""Which numbers outputs with bounds can be, once code has made others of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from overfit.reach import reach
from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding

Batch = dict[str, Tensor]
Score = Callable[["Net", Batch], Tensor]


class Net(nn.Module):
    def __init__(self, make: Callable[[Net, Tensor], Tensor] = lambda _, x: x) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.make = make
        self.high: Tensor
        self.register_buffer("high", torch.tensor([10.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.make(self, self.layer(x))


def subject(
    make: Callable[[Net, Tensor], Tensor],
    score: Score = lambda m, b: F.smooth_l1_loss(m(b["x"]), b["y"]),
    low: float = -30.0,
) -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(16, 4, generator=chance)
    y = torch.linspace(low, 60.0, 16)[torch.randperm(16, generator=chance)][:, None]
    weight = ((y >= 0.1) & (y <= 10)).float()
    batch = {"x": x, "y": y, "weight": weight}
    return Subject(Net(make), [batch], score, lambda m: torch.optim.SGD(m.parameters(), lr=0.1))  # type: ignore[arg-type]


def found(one: Subject) -> tuple[Finding, ...]:
    return check(one, chosen(only=["IDX012"])).findings


MADE: dict[str, tuple[Callable[[Net, Tensor], Tensor], str]] = {
    "numbers": (lambda _, x: 0.1 + (10.0 - 0.1) * torch.sigmoid(x).view(-1, 1), "0.1 to 10"),
    "buffer": (lambda m, x: m.high * torch.tanh(x) + 1, "-9 to 11"),
    "in place": (lambda _, x: torch.sigmoid(x).clone().mul_(3).sub_(1), "-1 to 2"),
    "turned": (lambda _, x: 1 - 2 * torch.sigmoid(x), "-1 to 1"),
    "reciprocal": (lambda _, x: 1 / (0.02 + torch.sigmoid(x)), "0.9804 to 50"),
    "no end": (lambda _, x: 5 + F.softplus(x) / 2, "5 or more"),
    "below": (lambda _, x: -torch.exp(x), "0 or less"),
    "held": (lambda _, x: 10 * x.clamp(0, 1), "0 to 10"),
    "held on one side": (lambda _, x: 1 + x.clamp(max=2.5), "3.5 or less"),
    "held by torch's function": (lambda _, x: 2 * F.hardtanh(x, -1, 1), "-2 to 2"),
    "log": (lambda _, x: torch.log1p(torch.sigmoid(x)), "0 to 0.6931"),
}


@pytest.mark.parametrize("name", MADE)
def test_what_is_made_of_bounded_numbers_lies_between_what_is_made_of_the_ends(name: str) -> None:
    make, gives = MADE[name]
    (one,) = found(subject(make))
    assert f"which gives {gives}." in one.message.replace("-0 or", "0 or")
    assert "test_ranges.py:" in one.message
    assert one.source is not None


def running(m: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        m.high.mul_(1.5)
    return m.high * torch.tanh(x)


UNKNOWN: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "of a weight": lambda m, x: m.scale * torch.tanh(x),
    "of a weight without its gradient": lambda m, x: m.scale.detach().exp() * torch.tanh(x),
    "of an output beside it": lambda _, x: x.detach() + torch.tanh(x),
    "of what a step writes": running,
    "of two signs": lambda _, x: 1 / torch.tanh(x),
    "squared": lambda _, x: torch.tanh(x).pow(2) * 100 - 50,
    "within": lambda _, x: 100 * torch.tanh(x),
    "held near": lambda _, x: torch.linspace(-1, 1, len(x))[:, None] + x.clamp(-0.5, 0.5),
    "held within": lambda _, x: x.clamp(-100, 100),
    "held by tensors": lambda m, x: x.clamp(min=m.high - 20, max=m.high),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_may_change_has_no_bounds(name: str) -> None:
    assert found(subject(UNKNOWN[name])) == ()


def depth(_: Net, x: Tensor) -> Tensor:
    return 10 * torch.sigmoid(x)


def of_valid(model: Net, batch: Batch) -> Tensor:
    each = F.l1_loss(model(batch["x"]), batch["y"], reduction="none")
    return (each * batch["weight"]).sum() / batch["weight"].sum()


def of_all(model: Net, batch: Batch) -> Tensor:
    return F.l1_loss(model(batch["x"]), batch["y"], reduction="none").mean()


def by_hand(model: Net, batch: Batch) -> Tensor:
    return (model(batch["x"]) - batch["y"]).abs().mean()


def without_noise(model: Net, batch: Batch) -> Tensor:
    return ((batch["y"] - model(batch["x"])) / 30).square().sub(0.5).abs().mean()


def of_own(model: Net, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch["x"]), (20 * model.layer(batch["y"].expand(-1, 4))).detach())


def test_labels_that_do_not_count_are_not_asked_for() -> None:
    assert found(subject(depth, of_valid)) == ()
    assert len(found(subject(depth, of_all))) == 1
    assert found(subject(depth, of_own)) == ()


def test_a_difference_counts_where_the_loss_draws_it_towards_zero() -> None:
    assert len(found(subject(depth, by_hand))) == 1
    assert found(subject(depth, without_noise)) == ()


def test_the_least_that_the_loss_can_be_is_that_of_what_is_made() -> None:
    one = subject(depth, of_all, low=-15)
    y = next(iter(one.batches))["y"]
    told = reach(one, list(one.batches))
    assert told is not None
    assert told.loss == pytest.approx(float((y.clamp(0, 10) - y).abs().mean()))
    assert told.beyond == int(((y < -0.1) | (y > 10.1)).sum())
    assert told.scaled is not None
    assert reach(subject(depth, of_valid), list(one.batches)) is None


def test_a_way_back_that_is_not_to_be_gone_tells_nothing() -> None:
    def checkpointed(model: Net, batch: Batch) -> Tensor:
        return checkpoint(of_all, model, batch, use_reentrant=True)  # type: ignore[no-any-return]

    def bare(model: Net, batch: Batch) -> Tensor:
        return F.l1_loss(model(batch["x"]), batch["y"])[None]

    assert found(subject(depth, checkpointed)) == ()
    assert len(found(subject(depth, bare))) == 1
