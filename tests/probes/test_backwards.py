"""Targets that stand in the reverse order of the outputs, and what only looks so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from probes import Subject
from probes.checks.backwards import BackwardTargets
from probes.experiment import Experiment
from probes.finding import Finding

Batch = dict[str, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]
mse = nn.functional.mse_loss


class Each(nn.Module):
    """A number for every state."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = self.read(x)[..., 0]
        return values


class Recurrent(nn.Module):
    """A number a step, of what was read up to there; or of all."""

    def __init__(self, both: bool = False) -> None:
        super().__init__()
        self.rnn = nn.GRU(3, 8, batch_first=True, bidirectional=both)
        self.read = nn.Linear(8 * (1 + both), 1)

    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = self.read(self.rnn(x)[0])[..., 0]
        return values


class Turned(Each):
    """Reads its sequence from the end, and gives it so."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flip(1))


def returns(rewards: Tensor, put_back: bool = True) -> Tensor:
    found, running = [], torch.zeros(len(rewards))
    for reward in rewards.unbind(1)[::-1]:
        running = reward + 0.9 * running
        found.append(running)
    return torch.stack(found[::-1] if put_back else found, 1)


def kept(model: nn.Module, batch: Batch) -> Tensor:
    return mse(model(batch["x"]), returns(batch["rewards"]))


def left(model: nn.Module, batch: Batch) -> Tensor:
    return mse(model(batch["x"]), returns(batch["rewards"], put_back=False))


def flipped(model: nn.Module, batch: Batch) -> Tensor:
    return (model(batch["x"]) - batch["rewards"].flip(1)).abs().mean()


def both_flipped(model: nn.Module, batch: Batch) -> Tensor:
    return mse(model(batch["x"]).flip(1), returns(batch["rewards"], put_back=False))


def advantages(model: nn.Module, batch: Batch, put_back: bool = True) -> Tensor:
    values = model(batch["x"])
    later = torch.cat([values[:, 1:], torch.zeros(len(values), 1)], 1).detach()
    gains = returns(batch["rewards"] + 0.9 * later - values.detach(), put_back)
    return mse(values, values.detach() + gains)


def lost_advantages(model: nn.Module, batch: Batch) -> Tensor:
    return advantages(model, batch, put_back=False)


def normal(model: nn.Module, batch: Batch, put_back: bool = True) -> Tensor:
    found = returns(batch["rewards"], put_back)
    return mse(model(batch["x"]), (found - found.mean()) / found.std())


def lost_normal(model: nn.Module, batch: Batch) -> Tensor:
    return normal(model, batch, put_back=False)


def up_to(model: nn.Module, batch: Batch) -> Tensor:
    return mse(model(batch["x"]), batch["rewards"].cumsum(1))


def rebuilt(model: nn.Module, batch: Batch) -> Tensor:
    return mse(model(batch["x"]), batch["x"].flip(1)[..., 0])


def mirrored(model: nn.Module, batch: Batch) -> Tensor:
    return mse(model(batch["x"].flip(1)), batch["rewards"].flip(1))


def symmetric(model: nn.Module, batch: Batch) -> Tensor:
    return mse(model(batch["x"]), batch["rewards"] + batch["rewards"].flip(1))


def found(model: nn.Module, loss: Loss) -> list[Finding]:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(7, 9, 3, generator=chance)
    subject = Subject(
        model,
        [{"x": x, "rewards": x[..., 0].tanh()}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
    )
    return list(BackwardTargets().judge(Experiment.of(subject)))


@pytest.mark.parametrize("make", [Each, Recurrent])
@pytest.mark.parametrize("loss", [left, flipped, lost_advantages, lost_normal])
def test_targets_in_reversed_order_are_told(make: Callable[[], nn.Module], loss: Loss) -> None:
    findings = found(make(), loss)
    assert [each.source is not None for each in findings] == [True]
    assert "reversed order" in findings[0].message


@pytest.mark.parametrize("make", [Each, Recurrent])
@pytest.mark.parametrize(
    "loss", [kept, both_flipped, advantages, normal, up_to, rebuilt, mirrored, symmetric]
)
def test_targets_in_the_order_of_outputs_are_silence(
    make: Callable[[], nn.Module], loss: Loss
) -> None:
    assert found(make(), loss) == []


@pytest.mark.parametrize("loss", [left, flipped])
@pytest.mark.parametrize("model", [Turned(), Recurrent(both=True)])
def test_what_reads_reversed_or_all_may_be_asked_so(model: nn.Module, loss: Loss) -> None:
    assert found(model, loss) == []
