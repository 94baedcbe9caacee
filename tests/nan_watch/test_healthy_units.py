"""Units that are closed now and then, or half of them, are no finding."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nan_watch import NanWatch
from nan_watch.rules.dead_units import DeadUnits
from nan_watch.rules.saturated_units import SaturatedUnits
from probes.finding import judge

Loss = Callable[[nn.Module], Tensor]
Made = tuple[nn.Module, Loss]


def of_class(x: Tensor) -> Loss:
    y = torch.arange(len(x)) % 3
    return lambda model: F.cross_entropy(model(x), y)


def mlp(width: int, act: type[nn.Module] = nn.ReLU, depth: int = 2) -> nn.Sequential:
    inner = [m for _ in range(depth - 1) for m in (nn.Linear(width, width), act())]
    return nn.Sequential(nn.Linear(8, width), act(), *inner, nn.Linear(width, 3))


def of_few_units() -> Made:
    return mlp(4), of_class(torch.randn(24, 8))


def of_many_units() -> Made:
    return mlp(256), of_class(torch.randn(24, 8))


def narrow_and_deep() -> Made:
    return mlp(8, depth=10), of_class(torch.randn(24, 8))


def samples_all_alike() -> Made:
    """Half of the units are closed for all of them, and nothing can be learned."""
    return mlp(64), of_class(torch.full((24, 8), 3.0))


def what_cannot_be_learned() -> Made:
    return mlp(64, nn.Tanh), lambda model: of_class(torch.randn(24, 8))(model)


def one_sample_a_step() -> Made:
    return mlp(16), lambda model: of_class(torch.randn(1, 8))(model)


def smooth() -> Made:
    return mlp(32, nn.SiLU), of_class(torch.randn(24, 8))


def convolutions() -> Made:
    body = [nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)]
    return nn.Sequential(*body, *head), of_class(torch.rand(12, 3, 10, 10))


def a_sigmoid_that_gives_rare_labels() -> Made:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 40), nn.Sigmoid())
    nn.init.constant_(model[2].bias, -8.0)  # from a warm start: it stands at its end
    x, y = torch.randn(24, 8), torch.zeros(24, 40)
    return model, lambda model: F.binary_cross_entropy(model(x), y)


class AutoEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
        self.decode = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 32), nn.Sigmoid())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = self.encode(x).chunk(2, -1)
        out = self.decode(mean + torch.randn_like(mean) * (log_var / 2).exp())
        return out, (mean.square() + log_var.exp() - 1 - log_var).sum() / 2 / len(x)


def variational() -> Made:
    x = (torch.rand(32, 32) > 0.8).float()

    def loss(model: nn.Module) -> Tensor:
        out, divergence = model(x)
        return F.binary_cross_entropy(out, x, reduction="sum") / len(x) + divergence

    return AutoEncoder(), loss


HEALTHY = [
    of_few_units,
    of_many_units,
    narrow_and_deep,
    samples_all_alike,
    what_cannot_be_learned,
    one_sample_a_step,
    smooth,
    convolutions,
    a_sigmoid_that_gives_rare_labels,
    variational,
]


@pytest.mark.parametrize("make", HEALTHY, ids=lambda make: make.__name__)
def test_nothing_is_said(make: Callable[[], Made]) -> None:
    torch.manual_seed(0)
    model, loss = make()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    with NanWatch(model, optimizer) as watch:
        for _ in range(140):
            optimizer.zero_grad()
            watch.backward(loss(model))
            optimizer.step()
    judgement = judge((DeadUnits(), SaturatedUnits()), watch.run)
    assert judgement.findings == ()
    assert judgement.passed
