"""A divergence that is a sum beside an error that is a mean, and an autoencoder."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.scoring.reductions import reduction

Loss = Callable[[nn.Module, tuple[Tensor]], Tensor]
WIDTH, HIDDEN = 64, 4


class Auto(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(WIDTH, 2 * HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, wide = self.encode(x).chunk(2, -1)
        drawn = mean + torch.randn_like(mean) * (0.5 * wide).exp() if self.training else mean
        return self.decode(drawn), mean, wide


def divergence(mean: Tensor, wide: Tensor) -> Tensor:
    """(sample,) summed over the numbers of the code."""
    return -0.5 * (1 + wide - mean.square() - wide.exp()).sum(1)


def apart(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
    made, mean, wide = model(batch[0])
    error: Tensor = F.mse_loss(made, batch[0])
    return error + divergence(mean, wide).mean()


def by_torch(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
    made, mean, wide = model(batch[0])
    code = Normal(mean, (0.5 * wide).exp())
    loss: Tensor = (made - batch[0]).square().mean()
    loss += kl_divergence(code, Normal(0.0, 1.0)).sum(-1).mean()
    return loss


def summed(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
    made, mean, wide = model(batch[0])
    error = F.mse_loss(made, batch[0], reduction="sum") / len(made)
    return error + divergence(mean, wide).mean()


def whole_sums(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
    made, mean, wide = model(batch[0])
    return F.mse_loss(made, batch[0], reduction="sum") + divergence(mean, wide).sum()


def divided(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
    made, mean, wide = model(batch[0])
    error: Tensor = F.mse_loss(made, batch[0])
    return error + divergence(mean, wide).mean() / WIDTH


def averaged(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
    made, mean, wide = model(batch[0])
    both: Tensor = -0.5 * (1 + wide - mean.square() - wide.exp())
    error: Tensor = F.mse_loss(made, batch[0])
    return error + both.mean()


def weighed(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
    made, mean, wide = model(batch[0])
    error: Tensor = F.mse_loss(made, batch[0])
    return error + 1e-3 * divergence(mean, wide).mean()


def large(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
    """In such numbers that the mean outweighs the divergence as it is."""
    made, mean, wide = model(batch[0])
    error: Tensor = F.mse_loss(30 * made, 30 * batch[0])
    return error + divergence(mean, wide).mean()


@pytest.mark.parametrize("loss", [apart, by_torch])
def test_a_code_that_is_given_up_for_its_divergence_is_told(loss: Loss) -> None:
    (one,) = found(loss)
    assert (one.code, one.verdict) == ("WIR015", Verdict.WARN)
    assert f"a sum over {HIDDEN} numbers of each sample, the other a mean over {WIDTH}" in (
        one.message
    )
    assert one.message.endswith("the input is given up.")
    assert one.message.count("test_collapsed.py:") == 2
    assert one.source is not None


@pytest.mark.parametrize("loss", [summed, whole_sums, divided, averaged, weighed, large])
def test_terms_in_one_unit_or_that_settle_are_healthy(loss: Loss) -> None:
    assert not found(loss)


def test_all_is_as_before() -> None:
    subject = of(apart)
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    state = torch.get_rng_state()
    check(subject, chosen(["WIR015"]))
    after = subject.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.equal(torch.get_rng_state(), state)
    assert subject.model.training


@pytest.mark.parametrize(
    ("made", "numbers", "weight"),
    [
        (lambda x: x.cos().mean(), 24, 1 / 24),
        (lambda x: x.cos().sum(1).mean(), 24, 1 / 4),
        (lambda x: -0.5 * x.cos().view(2, 12).sum() / 4, 24, 1 / 8),
        (lambda x: F.mse_loss(x, torch.zeros(4, 6)), 24, 1 / 24),
        (lambda x: 3 * F.mse_loss(x, torch.zeros(4, 6), reduction="sum"), 24, 3.0),
        (lambda x: F.cross_entropy(x, torch.arange(4)), 4, 1 / 4),
        (lambda x: F.cross_entropy(x, torch.arange(4), reduction="none").sum() / 2, 4, 1 / 2),
    ],
)
def test_by_what_numbers_are_divided(
    made: Callable[[Tensor], Tensor], numbers: int, weight: float
) -> None:
    value = made(torch.ones(4, 6, requires_grad=True))
    known = reduction(value)
    assert known is not None
    assert known.numbers == numbers
    assert known.weight == pytest.approx(weight)
    value.backward()


def test_a_single_number_is_no_reduction() -> None:
    assert reduction(torch.ones((), requires_grad=True).cos()) is None
    assert reduction(torch.ones((), requires_grad=True)) is None


def of(loss: Loss) -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(64, 3, generator=chance) @ torch.randn(3, WIDTH, generator=chance) / 2
    torch.manual_seed(0)
    return Subject(
        Auto(),
        [(x[part : part + 16],) for part in range(0, 64, 16)],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
        predict=lambda model, batch: model(batch[0])[0],
    )


def found(loss: Loss) -> tuple[Finding, ...]:
    judged = check(of(loss), chosen(["WIR015"])).findings
    return tuple(each for each in judged if each.verdict is not Verdict.NOTE)
