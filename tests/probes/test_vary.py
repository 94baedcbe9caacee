"""Other values for a tensor of a batch, of any number of axes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Verdict
from probes.vary import vary

EVERYWHERE = torch.ones((), dtype=torch.bool)


@pytest.mark.parametrize("value", [torch.tensor(0.5), torch.tensor([0.5, 1.0])])
def test_a_number_moves_with_axes_and_without(value: Tensor) -> None:
    moved = vary(value, EVERYWHERE.expand(value.shape))
    assert moved is not None
    assert moved.shape == value.shape
    assert bool((moved != value).all())


@pytest.mark.parametrize("value", [torch.tensor(3), torch.tensor(True)])
def test_one_id_alone_knows_no_other(value: Tensor) -> None:
    assert vary(value, EVERYWHERE) is None


@pytest.mark.parametrize(("factor", "worst"), [(1.0, Verdict.OK), (0.0, Verdict.NOTE)])
def test_a_number_without_axes_among_the_keys_is_judged(factor: float, worst: Verdict) -> None:
    batch = {
        "x": torch.randn(8, 3),
        "y": torch.randn(8),
        "warm": torch.tensor(0.3),
        "fresh": torch.tensor(True),
    }

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        out = model(batch["x"]).squeeze(-1) * (1 if bool(batch["fresh"]) else 0)
        return (out - batch["y"]).square().mean() * (1 + factor * batch["warm"])

    subject = Subject(
        nn.Linear(3, 1), [batch], loss, lambda model: torch.optim.SGD(model.parameters(), lr=0.1)
    )
    assert check(subject, chosen(only=["WIR007"])).verdict is worst
    assert check(subject).verdict.rank <= Verdict.NOTE.rank
