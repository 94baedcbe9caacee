"""The least that a loss can be by its form, and what a suite makes of it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overfit.bottom import Bottom, bottom
from overfit.curves import Curves
from overfit.heads import Heads
from overfit.look import Look
from overfit.rules.memorised import Memorised
from overfit.targets import read_targets
from probes import Subject
from probes.subject import Batch

PAIRS, HEAT = 8, 0.5


def _contrastive(model: nn.Module, batch: Batch) -> Tensor:
    """InfoNCE of two views of each sample, over unit vectors."""
    rows = F.normalize(torch.cat([model(view) for view in batch]), dim=-1)
    scores = (rows @ rows.T / HEAT).fill_diagonal_(-math.inf)
    n = len(batch[0])
    own = torch.arange(2 * n).roll(n)
    return -scores.log_softmax(-1)[torch.arange(2 * n), own].mean()


def _column_against_row(model: nn.Module, batch: Batch) -> Tensor:
    wanted = batch[1][:, 0]
    return (model(batch[0])[:, :1] - wanted).square().mean()


def _without_end(model: nn.Module, batch: Batch) -> Tensor:
    return model(batch[0]).mean()


def _rounded(model: nn.Module, batch: Batch) -> Tensor:
    out = model(batch[0])
    return (50 * out).round().square().mean() + 0 * out.sum()


def _by_weight(model: nn.Module, batch: Batch) -> Tensor:
    weight = next(model.parameters())
    return model(batch[0]).square().mean() + _Passed.apply(weight).square().mean()


class _Passed(torch.autograd.Function):
    """What no mode sees."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, slope: Tensor) -> Tensor:
        return slope


def _subject(loss: Callable[[nn.Module, Batch], Tensor]) -> Subject:
    torch.manual_seed(0)
    views = torch.randn(PAIRS, 4), torch.randn(PAIRS, 4)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(inplace=True), nn.Linear(16, 12))
    return Subject(model, [views], loss, lambda m: torch.optim.SGD(m.parameters(), lr=0.1))


def _found(loss: Callable[[nn.Module, Batch], Tensor]) -> Bottom | None:
    subject = _subject(loss)
    return bottom(subject, list(subject.batches))


def test_the_least_of_a_contrastive_loss_is_that_of_a_simplex() -> None:
    found = _found(_contrastive)
    apart = math.exp(-(1 + 1 / (PAIRS - 1)) / HEAT)
    assert found is not None
    assert found.least == pytest.approx(math.log(1 + (2 * PAIRS - 2) * apart), rel=1e-3)
    assert found.alike > math.log(2 * PAIRS - 1) - 0.1


def test_what_one_output_for_all_reaches_is_no_least_to_be_proud_of() -> None:
    found = _found(_column_against_row)
    assert found is not None
    assert found.alike == pytest.approx(found.least, rel=1e-3)


@pytest.mark.parametrize("loss", [_without_end, _rounded, _by_weight])
def test_nothing_is_said_of(loss: Callable[[nn.Module, Batch], Tensor]) -> None:
    assert _found(loss) is None


def test_the_model_and_the_random_state_are_as_they_were() -> None:
    subject = _subject(_contrastive)
    before = [each.detach().clone() for each in subject.model.parameters()]
    state = torch.get_rng_state()
    bottom(subject, list(subject.batches))
    after = list(subject.model.parameters())
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert all(each.grad is None for each in after)
    assert torch.equal(state, torch.get_rng_state())


def _curves(end: float, found: Bottom | None) -> Curves:
    return Curves(
        "overfit-5-seed0", 5, 0, 40, "samples", tuple(range(40)), (3.0, *[end] * 39),
        ended="steps", look=Look(bottom=found),
    )  # fmt: skip


def test_a_loss_at_its_least_is_memorised_and_says_so() -> None:
    at_its_least = _curves(0.41, Bottom(0.4, 2.5))
    (told,) = Memorised().judge(at_its_least)
    assert "0.4 is the least that any outputs give" in told.message
    assert not Memorised().holds(_curves(0.41, None))
    assert not Memorised().holds(_curves(0.41, Bottom(0.4, 0.4)))


def test_the_end_is_a_mean_over_the_passes() -> None:
    losses = (4.0, 2.0, 0.2, 0.0, 0.2, 0.0)
    curves = Curves(
        "overfit-20-seed0", 20, 0, 6, "samples", tuple(range(6)), losses, passes=2, ended="steps"
    )
    assert curves.start == pytest.approx(3.0)
    assert curves.end == pytest.approx(0.1)


@pytest.mark.parametrize("share", [0.8, 0.5])
def test_a_mixture_of_classes_has_its_entropy_for_a_least(share: float) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(6, 5), torch.arange(6) % 3

    def mixed(model: nn.Module, batch: Batch) -> Tensor:
        x, y = batch
        out = model(share * x + (1 - share) * x.roll(1, 0))
        return share * F.cross_entropy(out, y) + (1 - share) * F.cross_entropy(out, y.roll(1))

    subject = Subject(
        nn.Linear(5, 3), [(x, y)], mixed, lambda m: torch.optim.Adam(m.parameters(), lr=0.1)
    )
    assert not any(each.loss for each in read_targets(subject, list(subject.batches)).found)
    assert Heads(subject, list(subject.batches)).evaluate().counts == {}
    found = bottom(subject, list(subject.batches))
    entropy = -(share * math.log(share) + (1 - share) * math.log(1 - share))
    assert found is not None
    assert found.least == pytest.approx(entropy, rel=0.02)
