"""Rows, several a sample, that are laid out for samples that they are not of."""

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
Loss = Callable[[nn.Module, Batch], Tensor]


class Rows(nn.Module):
    """A vector of eight numbers a row."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 8))

    def forward(self, rows: Tensor) -> Tensor:
        made: Tensor = self.body(rows)
        return made


def said(loss: Loss, count: int = 12) -> list[Finding]:
    seed_everything(0)
    batches = [{"crops": torch.randn(count, 2, 6), "x": torch.randn(count, 6)} for _ in range(3)]
    subject = Subject(Rows(), batches, loss, lambda m: torch.optim.Adam(m.parameters()))
    return list(check(subject, chosen(["IDX014"])).findings)


def alike(one: Tensor, two: Tensor) -> Tensor:
    return -F.cosine_similarity(one, two).mean()


def in_halves(model: nn.Module, batch: Batch) -> Tensor:
    one, two = model(batch["crops"].flatten(0, 1)).chunk(2)
    return alike(one, two)


def by_copies(model: nn.Module, batch: Batch) -> Tensor:
    rows = model(batch["crops"].flatten(0, 1)).view(2, len(batch["x"]), -1)
    return alike(rows[0], rows[1])


def draws(model: nn.Module, batch: Batch) -> Tensor:
    n = len(batch["x"])
    weights = model(batch["x"].repeat(5, 1) + torch.randn(5 * n, 6)).sum(1)
    return -weights.view(n, 5).logsumexp(1).mean()


@pytest.mark.parametrize(
    ("loss", "samples"), [(in_halves, (0, 3)), (by_copies, (0, 3)), (draws, (0, 1, 2, 3, 4))]
)
def test_rows_of_other_samples_are_told(loss: Loss, samples: tuple[int, ...]) -> None:
    (found,) = said(loss)
    assert (found.verdict, found.samples) == (Verdict.WARN, samples)
    assert "test_regrouped.py" in (found.source or "")


def beside(model: nn.Module, batch: Batch) -> Tensor:
    rows = model(batch["crops"].flatten(0, 1)).view(len(batch["x"]), 2, -1)
    return alike(rows[:, 0], rows[:, 1])


def halves(model: nn.Module, batch: Batch) -> Tensor:
    one, two = model(torch.cat(batch["crops"].unbind(1))).chunk(2)
    return alike(one, two)


def all_pairs(model: nn.Module, batch: Batch) -> Tensor:
    rows, n = model(batch["x"]), len(batch["x"])
    one = rows.repeat(n, 1).view(n, n, -1)
    two = rows.repeat_interleave(n, 0).view(n, n, -1)
    return -((one - two) ** 2).sum(-1).mean()


def means(model: nn.Module, batch: Batch) -> Tensor:
    rows = model(torch.cat(batch["crops"].unbind(1)))
    return (rows**2).sum(1).view(len(batch["x"]), 2).mean(1).mean()


def micro_batches(model: nn.Module, batch: Batch) -> Tensor:
    rows, wanted = model(batch["crops"].flatten(0, 1)), batch["crops"].flatten(0, 1)
    parts = zip(rows.chunk(2), wanted.chunk(2), strict=True)
    return torch.cat([((row[:, :6] - goal) ** 2).mean(1) for row, goal in parts]).mean()


def groups(model: nn.Module, batch: Batch) -> Tensor:
    rows = model(torch.cat([batch["x"], batch["crops"][:, 0]]))
    size = min(4, len(rows))
    spread = rows.view(size, len(rows) // size, -1).std(0).mean(1)
    return (torch.cat([rows, spread.repeat(size)[:, None]], 1) ** 2).mean()


def rolled(model: nn.Module, batch: Batch) -> Tensor:
    rows, n = model(batch["x"]), len(batch["x"])
    others = torch.cat([rows.roll(1, 0), rows.roll(2, 0)]).view(2, n, -1)
    return alike(rows, others[0]) + alike(rows, others[1])


@pytest.mark.parametrize("loss", [beside, halves, all_pairs, means, micro_batches, groups, rolled])
@pytest.mark.parametrize("count", [4, 12])
def test_rows_of_their_own_samples_are_healthy(loss: Loss, count: int) -> None:
    assert said(loss, count) == []
