"""Targets that a loss function does not know."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD

from probes import Subject
from probes.checking import check, chosen
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Score = Callable[[Tensor, Tensor], Tensor]

BITS = (torch.arange(48) % 2).float().view(24, 2)
SIGNS = 2 * BITS - 1
TIES = torch.tensor([-1.0, 0.0, 1.0]).repeat(16).view(24, 2)
HOT = F.one_hot(torch.arange(24) % 4, 4)
NAMED = torch.where(HOT > 0, 2, torch.tensor([3, -1, -1, -1])).sort(1, descending=True).values
SHARES = torch.rand(24, 2, generator=torch.Generator().manual_seed(0))


def ranking(x: Tensor, y: Tensor) -> Tensor:
    return F.margin_ranking_loss(x[:, 0], x[:, 1], y[:, 0], margin=0.1)


def unlabelled(x: Tensor, y: Tensor) -> Tensor:
    """A target of -1 is a property that was not measured."""
    each = F.binary_cross_entropy_with_logits(x[:, :2], y, reduction="none")
    return each[y >= 0].mean()


def weighed(x: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(x[:, :2], y, weight=(y >= 0).float())


def two(loss: Callable[..., Tensor]) -> Score:
    return lambda x, y: loss(x[:, :2], y)


def four(loss: Callable[..., Tensor]) -> Score:
    return lambda x, y: loss(x, y)


def said(score: Score, target: Tensor) -> list[tuple[str, bool]]:
    seed_everything(0)
    batch = {"x": torch.randn(24, 6), "y": target}

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return score(model(batch["x"]), batch["y"])

    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
    own = Subject(model, [batch], loss, lambda m: SGD(m.parameters(), 0.1))
    findings = check(own, chosen(only=["WIR036"])).findings
    return [(f.verdict.value, "add no gradient" in f.message) for f in findings]


@pytest.mark.parametrize(
    ("score", "target", "told"),
    [
        (ranking, BITS, [("warn", True)]),
        (ranking, SIGNS, []),
        (ranking, TIES, [("note", True)]),
        (two(F.soft_margin_loss), BITS, [("fail", True)]),
        (two(F.soft_margin_loss), SIGNS, []),
        (two(F.hinge_embedding_loss), BITS, [("fail", True)]),
        (two(F.hinge_embedding_loss), SIGNS, []),
        (two(F.binary_cross_entropy_with_logits), SIGNS, [("fail", False)]),
        (two(F.binary_cross_entropy_with_logits), SHARES, []),
        (lambda x, y: F.binary_cross_entropy(x[:, :2].sigmoid(), y), SHARES, []),
        (two(F.multilabel_soft_margin_loss), SIGNS, [("fail", False)]),
        (four(F.multilabel_soft_margin_loss), HOT.float(), []),
        (four(F.multilabel_margin_loss), HOT, [("fail", False)]),
        (four(F.multilabel_margin_loss), NAMED, []),
        (two(F.poisson_nll_loss), SIGNS, [("fail", False)]),
        (two(F.poisson_nll_loss), 5 * BITS, []),
        (lambda x, y: F.kl_div(x[:, :2].log_softmax(1), y), SHARES.log(), [("fail", False)]),
        (lambda x, y: F.kl_div(x[:, :2].log_softmax(1), y), SHARES.softmax(1), []),
        (unlabelled, TIES, []),
        (weighed, TIES, []),
        (two(F.smooth_l1_loss), SIGNS, []),
    ],
)
def test_targets_outside_what_a_loss_function_takes(
    score: Score, target: Tensor, told: list[tuple[str, bool]]
) -> None:
    assert said(score, target) == told
