"""Rows that are sorted to be packed, and put back by the inverse of the order or by the order."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding
from probes.reading.indexing import Pick, reordering
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
HIDDEN = (9, 6, 8, 2, 3, 6, 2)  # by length, longest first, their order is its own inverse
SEEN = (2, 9, 6, 8, 2, 3, 6)


class Notes(nn.Module):
    """The last state of notes, beside two numbers.

    again: notes are put back by the order that they were sorted by. floats: they are sorted as
    vectors, not as ids.
    """

    def __init__(self, again: bool, floats: bool = False) -> None:
        super().__init__()
        self.words, self.gru = nn.Embedding(30, 8, padding_idx=0), nn.GRU(8, 8, batch_first=True)
        self.again, self.floats = again, floats

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        down, order = lengths.sort(descending=True, stable=True)
        rows = self.words(ids)[order] if self.floats else self.words(ids[order])
        last: Tensor = self.gru(pack_padded_sequence(rows, down, batch_first=True))[1][-1]
        return last[order if self.again else order.argsort()]  # put back


class Placed(nn.Module):
    """Adds what the place in the batch looks up."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(30, 8, padding_idx=0), nn.Embedding(12, 8)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        mean = self.words(ids).sum(1) / lengths[:, None]
        found: Tensor = mean + self.places(torch.arange(len(ids)))
        return found


class Prices(nn.Module):
    """Notes first, then numbers."""

    def __init__(self, *notes: nn.Module) -> None:
        super().__init__()
        self.notes, self.numbers = nn.ModuleList(notes), nn.Linear(2, 8)
        self.out = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, ids: Tensor, lengths: Tensor, numbers: Tensor) -> Tensor:
        read = torch.stack([each(ids, lengths) for each in self.notes]).sum(0)
        out: Tensor = self.out(read + self.numbers(numbers)).squeeze(-1)
        return out


def texts(lengths: tuple[int, ...]) -> Batch:
    n = torch.tensor(lengths)
    ids = torch.randint(1, 30, (len(n), 9)) * (torch.arange(9) < n[:, None])
    numbers, wanted = torch.randn(len(n), 2), torch.randn(len(n))
    return {"ids": ids, "lengths": n, "numbers": numbers, "wanted": wanted}


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch["ids"], batch["lengths"], batch["numbers"]), batch["wanted"])


def said(lengths: tuple[int, ...], *notes: nn.Module) -> list[Finding]:
    subject = Subject(
        Prices(*notes),
        [texts(lengths)],
        loss,
        lambda m: torch.optim.Adam(m.parameters()),
        predict=lambda m, b: m(b["ids"], b["lengths"], b["numbers"]),
    )
    return list(check(subject, chosen(["IDX002"])).findings)


@pytest.mark.parametrize("lengths", [HIDDEN, SEEN])
@pytest.mark.parametrize("floats", [False, True])
def test_rows_that_are_put_back_by_their_order_are_told(
    lengths: tuple[int, ...], floats: bool
) -> None:
    seed_everything(0)
    (found,) = said(lengths, Notes(again=True, floats=floats))
    assert found.site == "notes.0"
    assert found.source is not None
    with open(__file__) as file:
        assert "# put back" in file.readlines()[int(found.source.rpartition(":")[2]) - 1]
    turned = "once the batch is turned by one sample" in found.message
    assert turned == (lengths == HIDDEN)


@pytest.mark.parametrize("lengths", [HIDDEN, SEEN])
def test_rows_that_are_put_back_by_the_inverse_are_healthy(lengths: tuple[int, ...]) -> None:
    seed_everything(0)
    assert said(lengths, Notes(again=False)) == []


def test_what_a_place_adds_pairs_nothing_with_another_sample() -> None:
    seed_everything(0)
    assert said(HIDDEN, Placed()) == []


def test_what_is_undone_elsewhere_is_not_the_line() -> None:
    picks = [_pick([1, 2, 0]), _pick([1, 2, 0]), _pick([2, 0, 1]), _pick([1, 2, 0])]
    assert reordering(picks[:2], 3) is picks[1]
    assert reordering(picks[:3], 3) is picks[0]
    assert reordering(picks[1:3], 3) is None


def _pick(order: list[int]) -> Pick:
    rows, index = torch.zeros(3, 2), torch.tensor(order)
    return Pick("aten.index", 0, rows, 0, index, (), rows[index], None)
