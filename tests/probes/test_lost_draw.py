"""Draws by a learned mean and scale that are cut off: which are lost, and which are meant."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]


class Net(nn.Module):
    """What draws, and what reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 16), nn.Tanh())
        self.mean, self.scale = nn.Linear(16, 4), nn.Linear(16, 4)
        self.decoder = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 8))
        self.critic = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.encoder(x)
        return self.mean(hidden), F.softplus(self.scale(hidden)) + 0.1


def bound(model: Any, x: Tensor, z: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    kl = kl_divergence(Normal(mean, scale), Normal(torch.zeros_like(mean), 1.0)).sum(1).mean()
    read: Tensor = model.decoder(z)
    return kl + (read - x).square().sum(1).mean()


def without_gradient(model: Any, batch: Batch) -> Tensor:
    mean, scale = model(batch["x"])
    with torch.no_grad():  # cut off
        z = (torch.randn_like(scale) * scale + mean).tanh()
    return bound(model, batch["x"], z, mean, scale)


def detached(model: Any, batch: Batch) -> Tensor:
    mean, scale = model(batch["x"])
    z = Normal(mean, scale).rsample()
    return bound(model, batch["x"], z.detach(), mean, scale)  # cut off


def as_data(model: Any, batch: Batch) -> Tensor:
    mean, scale = model(batch["x"])
    z = torch.addcmul(mean, scale, torch.randn_like(mean)).data  # cut off
    return bound(model, batch["x"], z, mean, scale)


def sampled(model: Any, batch: Batch) -> Tensor:
    mean, scale = model(batch["x"])
    z = Normal(mean, scale).sample()  # cut off
    return bound(model, batch["x"], z, mean, scale)


def by_normal(model: Any, batch: Batch) -> Tensor:
    mean, scale = model(batch["x"])
    z = torch.normal(mean, scale)  # cut off
    return bound(model, batch["x"], z, mean, scale)


def for_a_critic(model: Any, batch: Batch) -> Tensor:
    mean, scale = model(batch["x"])
    z = mean + scale * torch.randn_like(mean)
    value: Tensor = model.critic(z.detach())
    return bound(model, batch["x"], z, mean, scale) + (value - 1).square().mean()


def acted(model: Any, batch: Batch) -> Tensor:
    mean, scale = model(batch["x"])
    with torch.no_grad():
        act = mean + scale * torch.randn_like(mean)
    paid: Tensor = act.square().sum(1)
    value: Tensor = model.critic(act)[:, 0]
    score: Tensor = Normal(mean, scale).log_prob(act).sum(1)
    return (score * (paid - value.detach())).mean() + (value - paid).square().mean()


def held_against(target: Callable[[nn.Module, Batch], Tensor], sample: bool) -> Loss:
    """A likelihood of what is no draw, while the draw is what the critic learns from."""

    def loss(model: Any, batch: Batch) -> Tensor:
        mean, scale = model(batch["x"])
        drawn = Normal(mean, scale)
        act = drawn.sample() if sample else (mean + scale * torch.randn_like(mean)).detach()
        value: Tensor = model.critic(act)
        kl: Tensor = kl_divergence(drawn, Normal(0.0, 1.0)).mean()
        asked: Tensor = drawn.log_prob(target(model, batch)).sum(1).mean()
        return (value - 1).square().mean() - asked + 0.1 * kl

    return loss


def of_the_batch(model: Any, batch: Batch) -> Tensor:
    return batch["x"][:, :4]


def of_labels(model: Any, batch: Batch) -> Tensor:
    return F.one_hot(batch["labels"], 4).float()


def of_a_target(model: Any, batch: Batch) -> Tensor:
    hidden: Tensor = model.encoder(batch["x"].flip(1))
    return hidden[:, :4].detach()


def found(loss: Loss) -> list[Finding]:
    seed_everything(0)
    chance = torch.Generator().manual_seed(0)
    batch = {"x": torch.randn(12, 8, generator=chance), "labels": torch.arange(12) % 4}
    subject = Subject(Net(), [batch], loss, lambda m: torch.optim.Adam(m.parameters(), lr=1e-3))
    return list(check(subject, chosen(["WIR011"])).findings)


@pytest.mark.parametrize("loss", [without_gradient, detached, as_data, sampled, by_normal])
def test_a_draw_that_only_its_divergence_teaches_is_a_warning_at_its_line(loss: Loss) -> None:
    (one,) = found(loss)
    lines, first = inspect.getsourcelines(loss)
    planted = first + next(i for i, text in enumerate(lines) if "# cut off" in text)
    assert (one.verdict, str(one.source).rpartition(":")[2]) == (Verdict.WARN, str(planted))
    assert "teaches it nothing" in one.message


@pytest.mark.parametrize(
    "loss",
    [
        for_a_critic,
        acted,
        *(held_against(target, sample) for target in (of_the_batch, of_labels, of_a_target)
          for sample in (True, False)),
    ],
)  # fmt: skip
def test_a_draw_that_is_cut_off_on_purpose_is_a_note(loss: Loss) -> None:
    assert [one.verdict for one in found(loss)] == [Verdict.NOTE]
