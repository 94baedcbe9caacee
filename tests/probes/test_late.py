"""What is known beforehand and read one place late, and what is rightly read so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Join = Callable[[Tensor, Tensor], Tensor]


class Forecaster(nn.Module):
    """A number a place, by a causal convolution or a decoder of what `join` makes of both keys."""

    def __init__(self, join: Join, attends: bool = False) -> None:
        super().__init__()
        self.join, self.attends = join, attends
        self.first, self.mix = nn.Linear(3, 16), nn.Conv1d(16, 16, 3)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, 1)

    def forward(self, wanted: Tensor, beside: Tensor) -> Tensor:
        rows = self.first(self.join(wanted[..., None], beside))
        if self.attends:
            hides = nn.Transformer.generate_square_subsequent_mask(rows.shape[1])
            rows = self.layer(rows, src_mask=hides)
        else:
            rows = rows + self.mix(F.pad(rows.mT, (2, 0))).mT.relu()
        scores: Tensor = self.head(rows).squeeze(-1)
        return scores


def late(rows: Tensor) -> Tensor:
    return F.pad(rows[:, :-1], (0, 0, 1, 0))


def both_late(wanted: Tensor, beside: Tensor) -> Tensor:
    return late(torch.cat([wanted, beside], 2))


def one_late(wanted: Tensor, beside: Tensor) -> Tensor:
    return torch.cat([late(wanted), beside], 2)


def series(follows: bool = False) -> list[Batch]:
    """Numbers that hang on what stands beside them; follows: on what stood there before."""
    chance = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(4):
        beside = torch.randn(16, 12, 2, generator=chance)
        cause = late(beside) if follows else beside
        noise = 0.1 * torch.randn(16, 12, generator=chance)
        batches.append({"sales": cause[..., 0] - 0.5 * cause[..., 1] + noise, "beside": beside})
    return batches


def said(model: nn.Module, key: str, batches: list[Batch], apart: bool = False) -> list[Finding]:
    """apart: what is scored is a key of its own."""
    for batch in batches:
        batch[key] = batch.pop("beside")
        batch["wanted" if apart else "sales"] = batch["sales"].clone()

    def predict(model: nn.Module, batch: Batch) -> Tensor:
        scores: Tensor = model(batch["sales"], batch[key])
        return scores

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return F.mse_loss(predict(model, batch), batch["wanted" if apart else "sales"])

    subject = Subject(
        model, batches, loss, lambda m: torch.optim.Adam(m.parameters()), predict=predict
    )
    return list(check(subject, chosen(["IDX016"])).findings)


@pytest.mark.parametrize(
    ("key", "attends", "apart"),
    [("known", False, False), ("future_inputs", True, False), ("calendar", False, True)],
)
def test_what_is_known_beforehand_and_read_late_is_told(
    key: str, attends: bool, apart: bool
) -> None:
    seed_everything(0)
    (found,) = said(Forecaster(both_late, attends), key, series(), apart)
    assert found.verdict is Verdict.WARN
    assert f"has read `{key}` up to the place before" in found.message


@pytest.mark.parametrize("attends", [False, True])
def test_what_is_read_at_its_own_place_is_healthy(attends: bool) -> None:
    seed_everything(0)
    assert said(Forecaster(one_late, attends), "known", series()) == []


def test_what_may_have_been_observed_is_a_note() -> None:
    seed_everything(0)
    (found,) = said(Forecaster(both_late), "weather", series())
    assert found.verdict is Verdict.NOTE


@pytest.mark.parametrize("key", ["actions", "known"])
def test_what_tells_of_the_next_place_is_healthy(key: str) -> None:
    seed_everything(0)
    assert said(Forecaster(both_late), key, series(follows=True)) == []
