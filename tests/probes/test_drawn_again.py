"""Draws for each sample, of which the model is told, and which it is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from probes import Subject
from probes.checks.drawn_again import DrawnTwice
from probes.experiment import Experiment
from probes.finding import Finding

Batch = dict[str, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]
mse = nn.functional.mse_loss


class Told(nn.Module):
    """Reads a sample, and numbers that tell of it."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.tell = nn.Linear(4, 4), nn.Linear(1, 4)

    def forward(self, x: Tensor, *told: Tensor) -> Tensor:
        out: Tensor = self.read(x) + sum(self.tell(each.float().view(-1, 1)) for each in told)
        return out


def mixed(x: Tensor, time: Tensor) -> Tensor:
    share = time.float().view(-1, 1) / 50
    return (1 - share) * x + share * torch.randn_like(x)


def whole(model: nn.Module, batch: Batch) -> Tensor:
    x = batch["x"]
    noisy = mixed(x, torch.randint(50, (len(x),)))
    return mse(model(noisy, torch.randint(50, (len(x),)) / 50), x)


def real(model: nn.Module, batch: Batch) -> Tensor:
    x = batch["x"]
    noisy = mixed(x, 50 * torch.rand(len(x), 1))
    return mse(model(noisy, torch.rand(len(x), 1)), x)


def once(model: nn.Module, batch: Batch) -> Tensor:
    x = batch["x"]
    time = torch.randint(50, (len(x),))
    return mse(model(mixed(x, time), -time), x)


def both_told(model: nn.Module, batch: Batch) -> Tensor:
    x = batch["x"]
    one, two = torch.rand(len(x)), torch.rand(len(x))
    return mse(model(mixed(x, 50 * one), one, two), x)


def between(model: nn.Module, batch: Batch) -> Tensor:
    """Of two draws the larger is the time, and the smaller where it is to lead."""
    x = batch["x"]
    one, two = torch.rand(len(x)), torch.rand(len(x))
    return mse(model(mixed(x, 50 * torch.maximum(one, two)), torch.minimum(one, two)), x)


def untold(model: nn.Module, batch: Batch) -> Tensor:
    x = batch["x"]
    return mse(model(mixed(x, torch.randint(50, (len(x),)))), x)


def another_kind(model: nn.Module, batch: Batch) -> Tensor:
    """How noisy it is the model is to see; what it is told is the class that is asked for."""
    x = batch["x"]
    return mse(model(mixed(x, torch.randint(50, (len(x),))), torch.randint(9, (len(x),))), x)


def found(loss: Loss) -> list[Finding]:
    x = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    subject = Subject(
        Told(), [{"x": x}], loss, lambda model: torch.optim.Adam(model.parameters(), lr=0.01)
    )
    return list(DrawnTwice().judge(Experiment.of(subject)))


@pytest.mark.parametrize("loss", [whole, real])
def test_what_the_model_is_told_was_drawn_anew(loss: Loss) -> None:
    (finding,) = found(loss)
    assert "draws anew" in finding.message
    assert finding.source is not None


@pytest.mark.parametrize("loss", [once, both_told, between, untold, another_kind])
def test_what_the_model_is_told_is_what_its_input_was_made_with(loss: Loss) -> None:
    assert found(loss) == []
