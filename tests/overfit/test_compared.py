"""What an accuracy compares with what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from overfit.compared import OtherScale, other_scales
from overfit.curves import Accuracy, Curves
from overfit.look import Look, kept_start
from overfit.rules.other_scale import MetricOnOtherScale
from probes import Ratio, Subject
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Count = Callable[[nn.Module, Batch], Ratio]
RANKS = torch.tensor([0, 3, 1, 2, 4, 1])


class Knows(nn.Module):
    """Gives the labels once it was trained, and nothing before."""

    def __init__(self) -> None:
        super().__init__()
        self.trained = nn.Parameter(torch.zeros(()))

    def forward(self, y: Tensor) -> Tensor:
        known: Tensor = y.double() * self.trained + 3 * (1 - self.trained)
        return known


def later(model: nn.Module, batch: Batch) -> Ratio:
    rank = 1 + model(batch["y"]).round().long()
    return Ratio((rank == batch["y"]).sum(), len(rank))  # later


def same(model: nn.Module, batch: Batch) -> Ratio:
    return Ratio((model(batch["y"]).round().long() == batch["y"]).sum(), len(batch["y"]))


def scaled(model: nn.Module, batch: Batch) -> Ratio:
    near = (batch["price"] - model(batch["price"]) / 85).abs() < 1
    return Ratio(near.sum(), len(near))


def curved(model: nn.Module, batch: Batch) -> Ratio:
    near = (model(batch["price"]).log() - batch["price"]).abs() < 1
    return Ratio(near.sum(), len(near))


def labels_alone(model: nn.Module, batch: Batch) -> Ratio:
    model(batch["y"])
    return Ratio((batch["y"] + 1 == batch["y"]).sum(), len(batch["y"]))


def told(count: Count) -> tuple[OtherScale, ...]:
    seed_everything(0)
    model = Knows()
    began = kept_start(model)
    with torch.no_grad():
        model.trained.fill_(1.0)
    batches = [{"y": RANKS, "price": 300.0 + 80 * torch.randn(6).double()}]
    subject = Subject(
        model,
        batches,
        lambda m, b: (m(b["y"]) - b["y"]).square().mean(),
        lambda m: torch.optim.SGD(m.parameters(), lr=0.1),
        metrics={"rank": count},
    )
    found = other_scales(subject, batches, began)
    assert float(model.trained.detach()) == 1.0
    return found


def test_whole_numbers_that_are_counted_from_elsewhere_are_told_with_their_line() -> None:
    (one,) = told(later)
    assert (one.head, one.key, one.whole, one.count) == ("rank", "y", True, 6)
    assert one.words == "`y` + 1"
    assert str(one.source).endswith("test_compared.py:38")


def test_numbers_in_other_units_are_told_by_their_line() -> None:
    (one,) = told(scaled)
    assert (one.key, one.whole) == ("price", False)
    assert one.times == pytest.approx(1 / 85)
    assert one.words.startswith("0.0118 x `price`")


def test_numbers_in_the_same_order_along_a_curve_are_told() -> None:
    (one,) = told(curved)
    assert (one.key, one.times) == ("price", None)
    assert one.words.startswith("in the order of `price`, along a curve")


@pytest.mark.parametrize("count", [same, labels_alone])
def test_what_is_on_one_scale_or_none_of_the_models_is_not(count: Count) -> None:
    assert told(count) == ()


OFF = OtherScale("rank", "y", 1.0, 1.0, True, 6, "a.py:3")
LINE = replace(OFF, times=0.01, plus=-3.0, whole=False)


def curves(last: float, end: float, found: OtherScale) -> Curves:
    return Curves(
        name="overfit-6-seed0",
        size=6,
        seed=0,
        budget=60,
        unit="samples",
        steps=tuple(range(60)),
        losses=(1.0, *[end] * 59),
        heads={"rank": Accuracy((0, 60), (1.0, last), (6.0, 6.0))},
        ended="steps",
        look=Look(scales=(found,)),
    )


@pytest.mark.parametrize(
    ("last", "end", "found", "holds"),
    [
        (0, 0.07, OFF, True),
        (5, 0.07, OFF, False),  # most of it is right
        (0, 0.001, LINE, True),
        (0, 0.3, LINE, False),  # it may be on its way
    ],
)
def test_an_accuracy_that_counts_little_on_another_scale_is_at_fault(
    last: float, end: float, found: OtherScale, holds: bool
) -> None:
    findings = list(MetricOnOtherScale().judge(curves(last, end, found)))
    assert [(each.code, each.source) for each in findings] == [("FIT021", "a.py:3")] * holds
