"""Which places of a loss taken place by place are labels to reach."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overfit.targets import read_targets
from probes import Subject
from probes.subject import Batch


def _per_place(model: nn.Module, batch: Batch) -> Tensor:
    scores: Tensor = model(batch["x"]).transpose(1, 2)
    return F.cross_entropy(scores, batch["y"], reduction="none")


def _masked(model: nn.Module, batch: Batch) -> Tensor:
    return (_per_place(model, batch) * batch["alive"]).sum() / batch["alive"].sum()


def _by_advantage(model: nn.Module, batch: Batch) -> Tensor:
    return (_per_place(model, batch) * (2 * batch["alive"] - 1)).mean()


def _focal(model: nn.Module, batch: Batch) -> Tensor:
    each = _per_place(model, batch)
    return ((1 - (-each).exp()) ** 2 * each).mean()


def _as_a_mean(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch["x"]).flatten(0, 1), batch["y"].flatten())


def _by_number(model: nn.Module, batch: Batch) -> Tensor:
    return torch.tensor(float(_masked(model, batch)))


@pytest.mark.parametrize(
    ("loss", "counted"),
    [(_masked, 9), (_by_advantage, 9), (_focal, 12), (_as_a_mean, 12), (_by_number, 12)],
)
def test_labels_are_counted_where_the_loss_asks_for_them(
    loss: Callable[[nn.Module, Batch], Tensor], counted: int
) -> None:
    torch.manual_seed(0)
    alive = torch.tensor([[1.0] * 4, [1.0] * 3 + [0.0], [1.0] * 2 + [0.0] * 2])
    batch = {"x": torch.randn(3, 4, 5), "y": torch.randint(0, 3, (3, 4)), "alive": alive}
    model = nn.Linear(5, 3)
    with torch.no_grad():
        model.weight.mul_(100)  # some are so sure that nothing is left of their focal loss
    subject = Subject(model, [batch], loss, lambda m: torch.optim.SGD(m.parameters(), lr=0.1))
    (target,) = read_targets(subject, [batch]).found
    assert target.count == counted
