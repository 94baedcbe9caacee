"""Numbers that are cut to whole ones, and the rows that are looked up by them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding
from probes.seeding import seed_everything

Index = Callable[["Net", Tensor], Tensor]
EDGES = torch.linspace(100, 900, 9)


class Net(nn.Module):
    """Adds the row of a table that `index` gives."""

    def __init__(self, index: Index, way: str) -> None:
        super().__init__()
        self.table, self.body = nn.Embedding(10, 6), nn.Linear(6, 1)
        self.gate, self.index, self.way = nn.Linear(6, 1), index, way
        self.register_buffer("fixed", torch.randn(10, 6))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        at = self.index(self, t if self.way != "learned" else self.gate(x).sigmoid().detach()[:, 0])
        if self.way == "indexed":
            row = self.fixed[at]
        elif self.way == "gathered":
            row = self.fixed.gather(0, at[:, None].expand(-1, 6))
        else:
            row = self.table(at)
        out: Tensor = self.body(x + row).squeeze(-1)
        return out


def said(index: Index, way: str = "", low: float = 0.0, high: float = 1.0) -> list[Finding]:
    seed_everything(0)
    batches = [
        {"x": torch.randn(9, 6), "t": low + (high - low) * torch.rand(9), "y": torch.randn(9)}
        for _ in range(4)
    ]
    subject = Subject(
        Net(index, way),
        batches,
        lambda model, b: F.mse_loss(model(b["x"], b["t"]), b["y"]),
        lambda model: torch.optim.Adam(model.parameters()),
    )
    return list(check(subject, chosen(["WIR030"])).findings)


@pytest.mark.parametrize(
    ("index", "way", "row", "site"),
    [
        (lambda model, t: t.long() * 9, "", 0, "table"),
        (lambda model, t: (t.floor() * 9).long(), "", 0, "table"),
        (lambda model, t: t.to(torch.int64), "indexed", 0, "model"),
        (lambda model, t: (1000 + 50 * t).long().clamp(max=9), "gathered", 9, "model"),
        (lambda model, t: torch.bucketize(t, EDGES), "", 0, "table"),
    ],
)
def test_numbers_that_all_become_one_row_are_told(
    index: Index, way: str, row: int, site: str
) -> None:
    [found] = said(index, way)
    assert (found.site, found.where) == (site, {"row": row})
    assert found.source is not None
    assert "test_one_row.py" in found.source


@pytest.mark.parametrize(
    ("index", "way", "low", "high"),
    [
        (lambda model, t: (t * 9).long(), "", 0, 1),
        (lambda model, t: torch.bucketize(t, EDGES), "", 50, 140),  # most in one bin
        (lambda model, t: t.long(), "", 0, 0),  # one type of all
        (lambda model, t: (t > 0).long(), "", 0.1, 1),  # no cut, but a comparison
        (lambda model, t: t.round().long(), "learned", 0.6, 0.9),  # another row in time
        (lambda model, t: torch.arange(len(t)) + t.long(), "", 0, 1),
    ],
)
def test_rows_that_vary_and_numbers_that_do_not_are_silent(
    index: Index, way: str, low: float, high: float
) -> None:
    assert said(index, way, low, high) == []
