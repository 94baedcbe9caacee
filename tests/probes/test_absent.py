"""Padding whose vectors are zeros: where it acts as if it were not there, and where it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Verdict
from probes.seeding import seed_everything

LENGTHS = torch.tensor([9, 4, 6, 3, 9, 5])
Read = Callable[[Any, Tensor, Tensor], Any]


class Words(nn.Module):
    """What is made of words whose padding, 0, has a vector of zeros."""

    def __init__(self, read: Read, kept: bool = True) -> None:
        super().__init__()
        self.word = nn.Embedding(40, 16, padding_idx=0 if kept else None)
        self.front, self.more = nn.Conv1d(16, 16, 3, padding=1), nn.Conv1d(16, 16, 3, padding=1)
        self.lstm, self.norm = nn.LSTM(16, 16, batch_first=True), nn.BatchNorm1d(16)
        self.place, self.head = nn.Embedding(40, 16), nn.Linear(16, 3)
        nn.init.zeros_(self.word.weight[0].detach())
        self.read = read

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        logits: Tensor = self.head(self.read(self, self.word(ids), mask[..., None]))
        return logits


def mean(x: Tensor, mask: Tensor) -> Tensor:
    return (x * mask).sum(1) / mask.sum(1)


def at_borders(m: Any, x: Tensor, mask: Tensor) -> Any:
    return mean(m.front(x.mT).relu().mT, mask)


def summed(m: Any, x: Tensor, mask: Tensor) -> Any:
    return x.sum(1) / mask.sum(1)


def over_all(m: Any, x: Tensor, mask: Tensor) -> Any:
    return m.front(x.mT).relu().mT.mean(1)


def largest(m: Any, x: Tensor, mask: Tensor) -> Any:
    return m.front(x.mT).relu().amax(2)


def two_borders(m: Any, x: Tensor, mask: Tensor) -> Any:
    return mean(m.more(m.front(x.mT).relu()).mT, mask)


def last_state(m: Any, x: Tensor, mask: Tensor) -> Any:
    return m.lstm(x)[0][:, -1]


def attended(m: Any, x: Tensor, mask: Tensor) -> Any:
    return mean((x @ x.mT / 4).softmax(-1) @ x, mask)


def placed(m: Any, x: Tensor, mask: Tensor) -> Any:
    return (x + m.place(torch.arange(x.shape[1], device=x.device))).mean(1)


def normed(m: Any, x: Tensor, mask: Tensor) -> Any:
    return mean(m.norm(m.front(x.mT).relu()).mT, mask)


def codes(read: Read, kept: bool = True, wider: int = 0) -> set[str]:
    """wider: positions of padding after the longest row."""
    seed_everything(0)
    keep = torch.arange(9 + wider) < LENGTHS[:, None]
    ids = torch.where(keep, torch.randint(1, 40, keep.shape), 0)
    batch = {"ids": ids, "mask": keep.float(), "labels": torch.arange(6) % 3}
    subject = Subject(
        Words(read, kept),
        [batch],
        lambda m, b: F.cross_entropy(m(b["ids"], b["mask"]), b["labels"]),
        lambda m: torch.optim.Adam(m.parameters()),
        predict=lambda m, b: m(b["ids"], b["mask"]),
    )
    found = check(subject, chosen(["MSK001", "MSK004"])).findings
    return {each.code for each in found if each.verdict is not Verdict.NOTE}


@pytest.mark.parametrize("wider", [0, 3])
@pytest.mark.parametrize("read", [at_borders, summed])
def test_an_id_of_zeros_that_does_what_no_padding_does_leaks_nothing(
    read: Read, wider: int
) -> None:
    assert not codes(read, wider=wider)


@pytest.mark.parametrize("wider", [0, 3])
@pytest.mark.parametrize(
    "read", [over_all, largest, two_borders, last_state, attended, placed, normed]
)
def test_an_id_of_zeros_that_takes_a_part_leaks(read: Read, wider: int) -> None:
    assert codes(read, wider=wider)


def test_an_id_whose_zeros_learn_leaks_at_borders() -> None:
    assert codes(at_borders, kept=False) == {"MSK001"}
