"""The user's own line at which what is not to be read comes in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from probes import Subject
from probes.checking import chosen
from probes.checks import RULES
from probes.experiment import Experiment
from probes.finding import judge
from probes.seeding import seed_everything

LENGTHS = torch.tensor([9, 8, 7, 5, 4, 3])


class Mean(nn.Module):
    """A mean over all, some operators after what is sound."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(50, 16), nn.Linear(16, 3)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        hidden = self.embedding(ids)
        wide = hidden * 2
        there = (torch.arange(ids.shape[1]) < lengths[:, None])[..., None]
        whole = (wide * there).sum(1) / lengths[:, None]
        over = wide.mean(1)  # MSK001
        logits: Tensor = self.head(torch.tanh(whole + over))
        return logits


class Mixed(Mean):
    """Sound padding, and the mean of the batch."""

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        there = (torch.arange(ids.shape[1]) < lengths[:, None])[..., None]
        hidden = (self.embedding(ids) * there).sum(1) / lengths[:, None]
        apart = hidden.tanh()
        apart = apart - apart.mean(0)  # MSK002
        logits: Tensor = self.head(apart)
        return logits


class Divided(Mean):
    """Padding is zeros, and counts in a mean."""

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        there = (torch.arange(ids.shape[1]) < lengths[:, None])[..., None]
        hidden = self.embedding(ids) * there
        over = hidden.mean(1)  # MSK004
        logits: Tensor = self.head(torch.tanh(over))
        return logits


class Sorted(Mean):
    """Packed by length, longest first, and not put back; what packing gives hangs on the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(16, 16, batch_first=True)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        order = lengths.argsort(descending=True)
        hidden = self.embedding(ids[order])
        packed = pack_padded_sequence(hidden, lengths[order], batch_first=True)
        _, last = self.cell(packed)
        logits: Tensor = self.head(last[0])  # sorted
        return logits


class Each(Mean):
    """Every place by itself."""

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embedding(ids))
        return logits


def divided(model: nn.Module, b: dict[str, Tensor]) -> Tensor:
    there = torch.arange(b["ids"].shape[1]) < b["lengths"][:, None]
    peaks = model(b["ids"], b["lengths"]).logsumexp(-1) * there
    value: Tensor = peaks.mean()  # <loss>
    return value


def lines(code: str) -> set[str]:
    """`test_line.py:40` for what is marked with a code."""
    text = Path(__file__).read_text().splitlines()
    return {f"test_line.py:{i}" for i, one in enumerate(text, 1) if one.endswith(f"# {code}")}


@pytest.mark.parametrize(
    ("model", "code"), [(Mean, "MSK001"), (Mixed, "MSK002"), (Divided, "MSK004")]
)
def test_it_is_the_first_whose_result_differs_where_it_is_not_to(
    model: type[nn.Module], code: str
) -> None:
    def loss(model: nn.Module, b: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(model(b["ids"], b["lengths"]), b["labels"])

    assert source(model(), loss, code) in lines(code)


def test_it_may_be_a_line_of_the_loss_behind_the_model() -> None:
    assert source(Each(), divided, "MSK004") in lines("<loss>")


def test_it_is_found_beside_packed_sequences_whose_size_hangs_on_the_batch() -> None:
    def loss(model: nn.Module, b: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(model(b["ids"], b["lengths"]), b["labels"])

    assert source(Sorted(), loss, "MSK002", LENGTHS.flip(0)) in lines("sorted")


def source(
    model: nn.Module,
    loss: Callable[[nn.Module, Any], Tensor],
    code: str,
    lengths: Tensor = LENGTHS,
) -> str:
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 50, (6, 9), generator=chance) * (torch.arange(9) < lengths[:, None])
    seed_everything(0)
    subject = Subject(
        model,
        [{"ids": ids, "lengths": lengths, "labels": torch.tensor([0, 1, 2, 0, 1, 2])}],
        loss,
        lambda model: torch.optim.Adam(model.parameters()),
    )
    (found,) = judge(chosen([code], known=RULES), Experiment.of(subject)).findings
    return (found.source or "").rpartition("/")[2]
