"""IDX027: samples are mixed by some weights, and their labels by other ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding
from probes.seeding import seed_everything

Batch = dict[str, Any]
Loss = Callable[[nn.Module, Batch], Tensor]


class Net(nn.Module):
    """Four classes of small images; with norm, statistics of the batch."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.read = nn.Conv2d(2, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.head = nn.Linear(8, 4)

    def features(self, x: Tensor) -> Tensor:
        found: Tensor = self.norm(self.read(x)).relu().mean((2, 3))
        return found

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.features(x))
        return scores


def found(loss: Loss, step: Callable[..., Tensor] | None = None) -> list[Finding]:
    seed_everything(0)
    batches = []
    for seed in range(3):
        chance = torch.Generator().manual_seed(seed)
        x = torch.randn(8, 2, 8, 8, generator=chance)
        batches.append({"x": x, "y": torch.arange(8) % 4, "lam": 0.8})
    subject = Subject(
        Net(),
        batches,
        loss,
        lambda m: torch.optim.SGD(m.parameters(), lr=0.01),
        predict=lambda m, b: m(b["x"]),
        train_step=step,
    )
    rules = chosen(["IDX027"], [])
    return [each for each in check(subject, rules).findings if each.code == "IDX027"]


def both(scores: Tensor, one: Tensor, two: Tensor, lam: Any) -> Tensor:
    losses = [F.cross_entropy(scores, y, reduction="none") for y in (one, two)]
    mean: Tensor = (lam * losses[0] + (1 - lam) * losses[1]).mean()
    return mean


def by_sample(own: bool) -> Loss:
    """Weights of their own for each sample."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        x, y = b["x"], b["y"]
        lam, order = torch.rand(len(x)), torch.randperm(len(x))
        w = (lam if own else 1 - lam)[:, None, None, None]
        return both(m(w * x + (1 - w) * x[order]), y, y[order], lam)

    return loss


def cutmix(own: bool, shared: bool = True) -> Loss:
    """A box of each image is another's."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        x, y = b["x"].clone(), b["y"]
        order, side = torch.randperm(len(x)), int(torch.randint(2, 5, ()))
        x[:, :, :side, :side] = x[order, :, :side, :side]
        lam = 1 - side * side / 64
        other = order if shared else order.roll(1)
        return both(m(x), y, y[other], lam if own else 1 - lam)

    return loss


def soft(own: bool) -> Loss:
    """Targets are mixed, and not losses; labels are smoothed."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        x, y = b["x"], F.one_hot(b["y"], 4) * 0.9 + 0.025
        lam = max(float(torch.rand(())), 0.6)
        mixed = lam * x + (1 - lam) * x.flip(0)
        target = lam * y + (1 - lam) * y.flip(0)
        return F.cross_entropy(m(mixed), target if own else target.flip(0))

    return loss


def inside(m: nn.Module, b: Batch) -> Tensor:
    """Features are mixed."""
    assert isinstance(m, Net)
    lam, h = b["lam"], m.features(b["x"])
    return both(m.head(lam * h + (1 - lam) * h.flip(0)), b["y"], b["y"].flip(0), lam)


def own_label(m: nn.Module, b: Batch) -> Tensor:
    """Another sample is noise."""
    return F.cross_entropy(m(0.7 * b["x"] + 0.3 * b["x"].flip(0)), b["y"])


def other_way(m: nn.Module, b: Batch) -> Tensor:
    """The partner has the larger weight, and its label as well."""
    x, y, lam = b["x"], b["y"], b["lam"]
    return both(m(lam * x.flip(0) + (1 - lam) * x), y.flip(0), y, lam)


def turned(m: nn.Module, b: Batch) -> Tensor:
    """Labels' partners are turned in place of reversed."""
    x, y, lam = b["x"], b["y"], b["lam"]
    return both(m(lam * x + (1 - lam) * x.flip(0)), y, y.roll(1, 0), lam)


def plain(m: nn.Module, b: Batch) -> Tensor:
    """Nothing is mixed."""
    return F.cross_entropy(m(b["x"]), b["y"])


def step_of(loss: Loss) -> Callable[..., Tensor]:
    def step(m: nn.Module, b: Batch, optimizer: torch.optim.Optimizer) -> Tensor:
        optimizer.zero_grad()
        value = loss(m, b)
        value.backward()
        optimizer.step()
        return value.detach()

    return step


@pytest.mark.parametrize("loss", [by_sample(False), cutmix(False), soft(False)])
def test_exchanged_weights_are_told(loss: Loss) -> None:
    (one,) = found(loss)
    assert "the weights of samples and labels are exchanged" in one.message
    assert one.source is not None


def test_other_partners_are_told() -> None:
    for loss in (turned, cutmix(True, shared=False)):
        (one,) = found(loss)
        assert "samples are mixed with other samples than their labels" in one.message


def test_a_step_of_the_subjects_own_is_looked_at() -> None:
    assert found(plain, step_of(by_sample(False)))
    assert not found(plain, step_of(by_sample(True)))


@pytest.mark.parametrize(
    "loss", [by_sample(True), cutmix(True), soft(True), inside, own_label, other_way, plain]
)
def test_what_belongs_together_is_silent(loss: Loss) -> None:
    assert not found(loss)


class OneNumber(nn.Module):
    """Gives one number a sample; with dropout, so that it draws."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.dropout(x, 0.2, self.training))[:, 0]  # type: ignore[no-any-return]


def test_an_output_of_one_number_a_sample_is_looked_at() -> None:
    def loss(m: nn.Module, b: Batch) -> Tensor:
        return F.mse_loss(m(0.8 * b["x"] + 0.2 * b["x"].flip(0)), b["y"])

    seed_everything(0)
    subject = Subject(
        OneNumber(),
        [{"x": torch.randn(8, 6), "y": torch.randn(8)}],
        loss,
        lambda m: torch.optim.SGD(m.parameters(), lr=0.01),
        predict=lambda m, b: m(b["x"]),
        train_step=step_of(loss),
    )
    assert check(subject, chosen(["IDX027"], [])).findings == ()
