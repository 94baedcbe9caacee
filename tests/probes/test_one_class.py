"""Which keys of one class are labels: those that a loss function is asked for, and no flags."""

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
Loss = Callable[[nn.Module, Batch], Tensor]


def bootstrapped(model: nn.Module, batch: Batch) -> Tensor:
    """The flag says where an episode ends, and none of these does."""
    with torch.no_grad():
        later = model(batch["later"]).amax(1)
    return F.smooth_l1_loss(
        model(batch["x"])[:, 0], batch["reward"] + 0.9 * (1 - batch["flag"]) * later
    )


def censored(model: nn.Module, batch: Batch) -> Tensor:
    """What was not observed weighs nothing."""
    each = F.mse_loss(model(batch["x"])[:, 0], batch["reward"], reduction="none")
    return (each * (1 - batch["flag"])).mean()


def told_apart(model: nn.Module, batch: Batch) -> Tensor:
    return F.binary_cross_entropy_with_logits(model(batch["x"])[:, 0], batch["flag"].float())


def signed(model: nn.Module, batch: Batch) -> Tensor:
    return F.soft_margin_loss(model(batch["x"])[:, 0], 2.0 * batch["flag"] - 1)


def classed(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["flag"].long())


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (bootstrapped, ["note"]),
        (censored, ["note"]),
        (told_apart, ["warn"]),
        (signed, ["warn"]),
        (classed, ["warn"]),
    ],
)
def test_labels_of_one_class_are_those_that_are_asked_for(loss: Loss, told: list[str]) -> None:
    seed_everything(0)
    batch = {
        "x": torch.randn(24, 6),
        "later": torch.randn(24, 6),
        "reward": torch.randn(24),
        "flag": torch.zeros(24),
    }
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
    own = Subject(model, [batch], loss, lambda m: SGD(m.parameters(), 0.1))
    found = check(own, chosen(only=["LBL005"])).findings
    assert [f.verdict.value for f in found] == told
