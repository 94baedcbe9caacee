"""Columns of ids in one table, each from an offset of its own on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding
from probes.seeding import seed_everything

SIZES = (7, 12, 5, 20, 9)
Index = Callable[[dict[str, Tensor]], Tensor]


class Table(nn.Module):
    """Looks up what `index` makes of the batch. how: by a module, or in a bare parameter."""

    def __init__(self, index: Index, rows: int, how: str) -> None:
        super().__init__()
        self.index, self.how = index, how
        self.held: object = None
        self.table = nn.Embedding(rows, 4)
        self.weight = nn.Parameter(torch.randn(rows, 4))
        self.head = nn.Linear(4, 1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        at = self.index(batch)
        rows = self.table(at) if self.how == "module" else self.weight[at]
        out: Tensor = self.head(rows.sum(1)).squeeze(-1)
        return out


def said(
    index: Index,
    rows: int = sum(SIZES),
    how: str = "module",
    held: object = None,
    tied: bool = False,
    sizes: Sequence[int] = SIZES,
) -> list[Finding]:
    seed_everything(0)
    batches = []
    for _ in range(6):
        fields = torch.stack([torch.randint(0, n, (48,)) for n in sizes], 1)
        named = {f"field_{i}": column for i, column in enumerate(fields.T)}
        year = torch.randint(0, 6, (48,))
        batches.append({"fields": fields, "year": year, "y": torch.randn(48)} | named)
    model = Table(index, rows, how)
    model.held = held

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        out = F.mse_loss(model(batch), batch["y"])
        return out + model.table.weight.logsumexp(0).mean() if tied else out

    subject = Subject(
        model,
        batches,
        loss,
        lambda model: torch.optim.Adam(model.parameters()),
    )
    return list(check(subject, chosen(["IDX013"])).findings)


STARTS = torch.tensor([0, *SIZES[:-1]])


def stacked(batch: dict[str, Tensor]) -> Tensor:
    return torch.stack([batch[f"field_{i}"] for i in range(len(SIZES))], 1)


@pytest.mark.parametrize("how", ["module", "indexed"])
@pytest.mark.parametrize(
    "index",
    [
        lambda batch: batch["fields"] + STARTS,
        lambda batch: stacked({k: v for k, v in batch.items() if k != "fields"}) + STARTS,
        lambda batch: batch["fields"] + STARTS.cumsum(0) // 2,
    ],
)
def test_columns_that_share_rows_of_a_table_with_room_for_all_are_told(
    index: Index, how: str
) -> None:
    [found] = said(index, how=how)
    assert found.site == ("table" if how == "module" else "model")
    assert "room for all of them apart" in found.message
    assert found.source is not None


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (lambda batch: batch["fields"] + STARTS.cumsum(0), sum(SIZES)),
        (lambda batch: stacked(batch) + STARTS.cumsum(0), 2 * sum(SIZES)),
        (lambda batch: batch["fields"], max(SIZES)),  # one vocabulary
        (lambda batch: batch["fields"], 60),  # and one of which a part is not used
        (lambda batch: batch["fields"] + torch.tensor([0, 0, 20, 0, 25]), 45),  # two of them
        (lambda batch: batch["fields"] + torch.tensor([0, 6, 17, 21, 40]), sum(SIZES)),  # missing
        (lambda batch: batch["year"][:, None] + torch.arange(12), 80),  # years that go by
        (lambda batch: batch["fields"] + 3 * torch.arange(5), sum(SIZES)),  # along time
        (lambda batch: batch["fields"] + STARTS, 500),  # no table for these columns alone
        (lambda batch: (batch["fields"] * 31 + STARTS * 17) % 53, sum(SIZES)),  # hashed
    ],
)
def test_columns_with_rows_of_their_own_or_shared_on_purpose_are_well(
    index: Index, rows: int
) -> None:
    assert said(index, rows) == []


def as_it_is(batch: dict[str, Tensor]) -> Tensor:
    return batch["fields"]


EVEN = (9, 9, 9, 9, 9)


@pytest.mark.parametrize(
    ("index", "rows", "held", "sizes", "told"),
    [
        (as_it_is, 53, None, SIZES, "as many as they have together (7, 12, 5, 20, 9)"),
        (as_it_is, 54, None, SIZES, "as many as they have together (7, 12, 5, 20, 9)"),
        (as_it_is, 45, None, EVEN, None),  # five places of one vocabulary
        (as_it_is, 45, torch.arange(5) * 9, EVEN, "`held` says how many are each's"),
        (as_it_is, 60, [9, 14, 5, 22, 10], SIZES, "`held` says how many are each's"),
        (as_it_is, 60, [9, 23, 28, 50, 60], SIZES, "`held` says how many are each's"),
        (as_it_is, 60, np.array([0, 9, 23, 28, 50]), SIZES, "`held` says how many are each's"),
        (as_it_is, 60, torch.arange(5), SIZES, None),
        (as_it_is, 60, [5, 14, 9, 22, 10], SIZES, None),  # of other columns
        (as_it_is, 500, [9, 14, 5, 22, 450], SIZES, None),
        (lambda batch: stacked(batch).flip(1), 53, None, SIZES, "`field_4` to `field_0`"),
        (lambda batch: batch["fields"][:, :2], 19, None, SIZES, None),
        (lambda batch: torch.randint(0, 53, (48, 5)), 53, SIZES, SIZES, None),
        (
            lambda batch: (batch["fields"] + torch.tensor(SIZES).cumsum(0)).clamp(max=52),
            53,
            None,
            (7, 12, 5, 20, 9),
            "all ids of `fields[..., 4]`, which differ, ask for row 52",
        ),
        (lambda batch: batch["fields"].clamp(max=3), 53, SIZES, SIZES, None),
    ],
)
def test_columns_as_they_are_in_a_table_made_for_all_of_them_are_told(
    index: Index, rows: int, held: object, sizes: Sequence[int], told: str | None
) -> None:
    found = said(index, rows, held=held, sizes=sizes)
    assert [(told or "") in each.message for each in found] == [True] * (told is not None)


def test_a_table_whose_other_rows_are_read_by_the_loss_is_well() -> None:
    assert said(as_it_is, tied=True, held=SIZES) == []


class Drawn:
    """Rows that are drawn anew in each pass over the data, and not as long as before."""

    def __init__(self) -> None:
        self.passes = 0

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        self.passes += 1
        width = len(SIZES) if self.passes == 1 else 3
        for _ in range(4):
            fields = torch.stack([torch.randint(1, n, (48,)) for n in SIZES[:width]], 1)
            yield {"fields": fields, "y": torch.randn(48)}


def test_rows_that_are_shorter_in_another_pass_are_well() -> None:
    seed_everything(0)

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return F.mse_loss(model(batch), batch["y"])

    subject = Subject(
        Table(as_it_is, sum(SIZES), "module"),
        Drawn(),
        loss,
        lambda model: torch.optim.Adam(model.parameters()),
    )
    assert list(check(subject, chosen(["IDX013"])).findings) == []
