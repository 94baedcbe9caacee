"""Columns that nobody reads, and what they would have told."""

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

Work = Callable[["Net", Tensor], Tensor]
Wanted = Callable[[Tensor], Tensor]


class Net(nn.Module):
    """Reads eight columns as `work` says."""

    def __init__(self, work: Work, classes: int = 1) -> None:
        super().__init__()
        self.actor, self.critic = nn.Linear(5, 6), nn.Linear(5, 6)
        self.towers = nn.ModuleList([nn.Linear(4, 6), nn.Linear(4, 6)])
        self.whole, self.gate = nn.Linear(8, 6), nn.Linear(7, 6)
        self.kinds, self.head, self.work = nn.Embedding(4, 6), nn.Linear(6, classes), work

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.work(self, x).tanh()).squeeze(-1)
        return out


def said(work: Work, wanted: Wanted, places: int = 0) -> list[Finding]:
    seed_everything(0)
    batches = []
    for _ in range(6):
        x = torch.randn(48, places, 8) if places else torch.randn(48, 8)
        batches.append({"x": x, "y": wanted(x if not places else x.mean(1))})
    classes = 1 if batches[0]["y"].is_floating_point() else 3
    score = F.mse_loss if classes == 1 else F.cross_entropy

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        out = model(batch["x"])
        return score(out.mean(1) if places else out, batch["y"])

    subject = Subject(
        Net(work, classes), batches, loss, lambda model: torch.optim.Adam(model.parameters())
    )
    return list(check(subject, chosen(["WIR031"])).findings)


def first(x: Tensor) -> Tensor:
    return x[:, 0] + 0.3 * x[:, 1]


def last(x: Tensor) -> Tensor:
    return x[:, 0] + x[:, 7].tanh()


def of_classes(x: Tensor) -> Tensor:
    return x[:, [0, 6, 7]].argmax(1)


def both(model: Net, x: Tensor) -> Tensor:
    """As an actor and a critic that are to see as much."""
    out: Tensor = model.actor(x[..., :5]) * model.critic(x[..., :5])
    return out


def but_last(model: Net, x: Tensor) -> Tensor:
    out: Tensor = model.gate(x[..., :7])
    return out


def stuck(model: Net, x: Tensor) -> Tensor:
    out: Tensor = sum(tower(x.narrow(-1, 0, 4)) for tower in model.towers)  # type: ignore[assignment]
    return out


def shared_out(model: Net, x: Tensor) -> Tensor:
    one, two = x.split(4, -1)
    out: Tensor = model.towers[0](one) + model.towers[1](two)
    return out


def by_kind(model: Net, x: Tensor) -> Tensor:
    """The last column is read without a gradient."""
    out: Tensor = model.gate(x[..., :7]) + model.kinds((x[..., 7] > 0).long())
    return out


@pytest.mark.parametrize(
    ("work", "wanted", "places", "site", "words"),
    [
        (stuck, first, 0, "towers.0", "are given the same ones, 0, 1, 2, 3, instead"),
        (but_last, last, 0, "<data>", "tell of `y` what the others do not"),
        (but_last, last, 3, "<data>", "tell of `y`"),
        (both, of_classes, 0, "<data>", "tell of `y`"),
    ],
)
def test_columns_that_are_missed_are_told(
    work: Work, wanted: Wanted, places: int, site: str, words: str
) -> None:
    [found] = said(work, wanted, places)
    assert found.verdict is Verdict.WARN
    assert found.site == site
    assert words in found.message


@pytest.mark.parametrize(
    ("work", "wanted"),
    [(both, first), (but_last, first), (but_last, lambda x: x[:, 7])],  # the last one is a leak
)
def test_columns_that_are_left_out_on_purpose_are_a_note(work: Work, wanted: Wanted) -> None:
    [found] = said(work, wanted)
    assert found.verdict is Verdict.NOTE


@pytest.mark.parametrize("work", [shared_out, by_kind, lambda model, x: model.whole(x)])
def test_columns_that_are_read_are_silent(work: Work) -> None:
    assert said(work, last) == []
