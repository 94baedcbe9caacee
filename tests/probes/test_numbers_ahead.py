"""Outputs that are asked for the next number may not read it; what fills in or sums up may."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict

Batch = dict[str, Tensor]
STEPS = 18


class Convolved(nn.Module):
    """Two convolutions over time, padded on the left or on both sides."""

    def __init__(self, both: bool, wide: int = 1, gives: int = 1) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(wide, 8, 3), nn.Conv1d(8, gives, 3)
        self.pads = (1, 1) if both else (2, 0)
        self.flat = wide == gives == 1

    def forward(self, x: Tensor) -> Tensor:
        h = x.unsqueeze(1) if self.flat else x.transpose(1, 2)
        h = self.second(F.pad(F.relu(self.first(F.pad(h, self.pads))), self.pads))
        out: Tensor = h.squeeze(1) if self.flat else h.transpose(1, 2)
        return out


class Summed(nn.Module):
    """A recurrent decoder that is told what the whole window came to, as a posterior is."""

    def __init__(self) -> None:
        super().__init__()
        self.reads, self.gives = (nn.GRU(3, 8, batch_first=True) for _ in range(2))
        self.latent, self.out = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        latent = self.latent(self.reads(x)[1])
        out: Tensor = self.out(self.gives(x[:, :-1], latent)[0])
        return out


def judged(
    model: nn.Module,
    batch: Batch,
    predict: Callable[[nn.Module, Batch], Tensor],
    loss: Callable[[Tensor, Batch], Tensor],
) -> list[Finding]:
    subject = Subject(
        model,
        [batch],
        lambda m, b: loss(predict(m, b), b),
        lambda m: torch.optim.Adam(m.parameters()),
        predict=predict,
    )
    found = check(subject, chosen(only=["MSK003"])).findings
    return [each for each in found if each.verdict.rank > Verdict.NOTE.rank]


def series(wide: int) -> Tensor:
    chance = torch.Generator().manual_seed(0)
    whole = torch.randn(12, STEPS, wide, generator=chance)
    return whole.squeeze(-1)


def but_last(model: nn.Module, b: Batch) -> Tensor:
    out: Tensor = model(b["x"][:, :-1])
    return out


def whole(model: nn.Module, b: Batch) -> Tensor:
    out: Tensor = model(b["x"])
    return out


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("wide", [1, 3])
@pytest.mark.parametrize("scored", [F.mse_loss, F.l1_loss])
def test_a_forecaster_that_is_padded_on_both_sides_reads_the_next_value(
    both: bool, wide: int, scored: Callable[[Tensor, Tensor], Tensor]
) -> None:
    def one(given: Tensor, b: Batch) -> Tensor:
        return scored(given, b["x"][:, 1:])

    def two(given: Tensor, b: Batch) -> Tensor:
        return scored(given[:, :-1], b["x"][:, 1:])

    for predict, loss in ((but_last, one), (whole, two)):
        found = judged(Convolved(both, wide, wide), {"x": series(wide)}, predict, loss)
        assert [each.verdict for each in found] == [Verdict.WARN] * both


@pytest.mark.parametrize("both", [True, False])
def test_what_is_wanted_may_be_a_key_of_its_own(both: bool) -> None:
    values = series(3)
    batch = {"x": values[:, :-1], "next": values[:, 1:]}
    model = Convolved(both, 3, 3)
    found = judged(model, batch, whole, lambda given, b: F.mse_loss(given, b["next"]))
    assert len(found) == both


@pytest.mark.parametrize("hidden", [0.0, 0.3])
def test_what_gives_back_or_fills_in_its_own_place_may_read_both_sides(hidden: float) -> None:
    dropped = torch.rand(12, STEPS, 3, generator=torch.Generator().manual_seed(1)) < hidden
    batch = {"x": series(3), "dropped": dropped}

    def predict(model: nn.Module, b: Batch) -> Tensor:
        out: Tensor = model(b["x"].masked_fill(b["dropped"], 0.0))
        return out

    def loss(given: Tensor, b: Batch) -> Tensor:
        return F.mse_loss(given, b["x"])

    assert judged(Convolved(True, 3, 3), batch, predict, loss) == []


def test_what_a_whole_window_came_to_may_be_told() -> None:
    def loss(given: Tensor, b: Batch) -> Tensor:
        return F.mse_loss(given, b["x"][:, 1:])

    assert judged(Summed(), {"x": series(3)}, whole, loss) == []


@pytest.mark.parametrize("ahead", [2, 3])
def test_a_value_further_ahead_than_is_read_is_a_forecast(ahead: int) -> None:
    def predict(model: nn.Module, b: Batch) -> Tensor:
        out: Tensor = model(b["x"][:, 1:-1])
        return out

    def loss(given: Tensor, b: Batch) -> Tensor:
        return F.mse_loss(given[:, : STEPS - ahead], b["x"][:, ahead:])

    found = judged(Convolved(False, 3, 3), {"x": series(3)}, predict, loss)
    assert found == []
