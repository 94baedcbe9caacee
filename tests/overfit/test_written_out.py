"""Errors of numbers that a loss writes out are targets as torch's own are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overfit.ceilings import CONFLICT
from overfit.look import Looker
from overfit.targets import read_targets
from probes import Subject
from probes.subject import Batch


class Table(nn.Module):
    """One number for every id."""

    def __init__(self) -> None:
        super().__init__()
        self.values = nn.Embedding(9, 1)

    def forward(self, ids: Tensor) -> Tensor:
        values: Tensor = self.values(ids).squeeze(-1)
        return values


def _off(model: nn.Module, batch: Batch) -> Tensor:
    off: Tensor = model(batch["ids"]) - batch["sales"]
    return off


def _squares(model: nn.Module, batch: Batch) -> Tensor:
    return _off(model, batch).pow(2).mean()


def _sizes(model: nn.Module, batch: Batch) -> Tensor:
    off: Tensor = batch["sales"] - model(batch["ids"])
    return off.abs().mean()


def _called(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch["ids"]), batch["sales"])


def _with_more(model: nn.Module, batch: Batch) -> Tensor:
    size: Tensor = model(batch["ids"]).square().mean()
    return _squares(model, batch) + 0.1 * size


def _relative(model: nn.Module, batch: Batch) -> Tensor:
    weight: Tensor = 1 + batch["sales"].abs()
    return (_off(model, batch) / weight).square().mean()


def _between_outputs(model: nn.Module, batch: Batch) -> Tensor:
    values: Tensor = model(batch["ids"])
    return (values - values.flip(0)).square().mean()


def _subject(loss: Callable[[nn.Module, Batch], Tensor], ids: list[int]) -> tuple[Subject, Batch]:
    torch.manual_seed(0)
    batch = {"ids": torch.tensor(ids), "sales": torch.tensor([1.0, 3.0, -1.0, 0.5])}
    return Subject(Table(), [batch], loss, lambda m: torch.optim.SGD(m.parameters(), lr=0.1)), batch


@pytest.mark.parametrize(
    ("loss", "name"),
    [
        (_squares, "mse_loss"),
        (_sizes, "l1_loss"),
        (_called, "mse_loss"),
        (_with_more, None),
        (_relative, None),
        (_between_outputs, None),
    ],
)
def test_it_is_read_where_it_is_the_whole_loss(
    loss: Callable[[nn.Module, Batch], Tensor], name: str | None
) -> None:
    subject, batch = _subject(loss, [0, 1, 2, 3])
    found = read_targets(subject, [batch]).found
    assert [(each.key, each.loss, each.whole) for each in found] == (
        [("sales", name, True)] if name else []
    )


@pytest.mark.parametrize(
    ("loss", "ids", "least"),
    [
        (_squares, [4, 4, 2, 3], [0.5]),
        (_sizes, [4, 4, 2, 3], [0.5]),
        (_squares, [0, 1, 2, 3], []),
    ],
)
def test_equal_inputs_of_different_numbers_are_a_ceiling(
    loss: Callable[[nn.Module, Batch], Tensor], ids: list[int], least: list[float]
) -> None:
    subject, batch = _subject(loss, ids)
    found = [
        each for each in Looker(subject, [batch], {}).facts().ceilings if each.name == CONFLICT
    ]
    assert [each.loss for each in found] == pytest.approx(least)
    assert all(each.exact and each.samples == (0, 1) for each in found)
