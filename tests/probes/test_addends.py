"""The terms that a loss is seen to be the sum of, and those that are sums beside means."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.scoring.addends import addends
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]


def at_once(model: nn.Module, b: Batch) -> Tensor:
    made = model(b["x"])
    return F.mse_loss(made, b["y"]) + made.square().sum()


def in_place(model: nn.Module, b: Batch) -> Tensor:
    made = model(b["x"])
    loss = F.mse_loss(made, b["y"])
    loss += made.square().sum()
    return loss


def in_a_list(model: nn.Module, b: Batch) -> Tensor:
    made = model(b["x"])
    return sum([F.mse_loss(made, b["y"]), made.square().sum()], torch.zeros(())) * 0.5


def less(model: nn.Module, b: Batch) -> Tensor:
    made = model(b["x"])
    return 0.5 * (F.mse_loss(made, b["y"]) - 0.3 * torch.sum(made.cos()))


def divided(model: nn.Module, b: Batch) -> Tensor:
    made = model(b["x"])
    return F.mse_loss(made, b["y"]) + 30 * made.square().sum() / len(made)


def weighed(model: nn.Module, b: Batch) -> Tensor:
    made = model(b["x"])
    return 0.01 * F.mse_loss(made, b["y"]) + made.square().sum()


def decayed(model: nn.Module, b: Batch) -> Tensor:
    of_weights = torch.stack([p.square().sum() for p in model.parameters()]).sum()
    return F.mse_loss(model(b["x"]), b["y"], reduction="sum") + 1e-3 * of_weights


def summed(model: nn.Module, b: Batch) -> Tensor:
    made = model(b["x"])
    return F.mse_loss(made, b["y"], reduction="sum") + 30 * made.square().sum()


def contrasted(model: nn.Module, b: Batch) -> Tensor:
    made = model(b["x"])
    ways = F.normalize(made, dim=-1)
    apart = F.cross_entropy(ways @ ways.T, torch.arange(len(made)))
    return 0.01 * apart + made.square().sum()


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        *[(each, True) for each in (at_once, in_place, in_a_list, less)],
        *[(each, False) for each in (divided, weighed, decayed, summed, contrasted)],
    ],
)
def test_a_sum_beside_a_mean_is_told_though_nobody_names_them(loss: Loss, told: bool) -> None:
    subject = of(loss)
    judged = check(subject, chosen(["WIR015"]))
    assert len(judged.findings) == told
    for one in judged.findings:
        assert "`mse_loss at " in one.message


@pytest.mark.parametrize("loss", [at_once, in_place, in_a_list, less, divided, weighed])
def test_the_terms_add_up_to_the_loss(loss: Loss) -> None:
    subject = of(loss)
    (batch,) = subject.batches
    model = subject.model
    values = (each.value for each in addends(subject, model, batch))
    terms = [float(each.detach()) for each in values if each.requires_grad]
    signs = (1, -1) if loss is less else (1, 1)
    total = sum(sign * term for sign, term in zip(signs, terms, strict=True))
    assert total == pytest.approx(float(loss(model, batch).detach()), rel=1e-5)


def test_a_loss_that_is_no_sum_has_one_term() -> None:
    subject = of(lambda model, b: F.mse_loss(model(b["x"]), b["y"]))
    (batch,) = subject.batches
    assert len(addends(subject, subject.model, batch)) == 1


def of(loss: Loss) -> Subject:
    seed_everything(0)
    batch = {"x": torch.randn(64, 5), "y": torch.randn(64, 4)}
    return Subject(
        nn.Linear(5, 4), [batch], loss, lambda model: torch.optim.SGD(model.parameters(), lr=0.01)
    )
