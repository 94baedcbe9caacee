"""Padding whose own content says that it is padding: what leaks, and what is a contract."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import chosen
from probes.checks import RULES
from probes.experiment import Experiment
from probes.finding import Verdict, judge
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Pool = Callable[[Tensor, Tensor], Tensor]
LENGTHS = torch.tensor([9, 8, 7, 5, 4, 3])


def said(
    model: nn.Module, batch: Batch, given: tuple[str, ...], codes: list[str]
) -> dict[str, str | None]:
    seed_everything(0)
    subject = Subject(
        model,
        [batch],
        lambda model, b: F.cross_entropy(model(*(b[key] for key in given)), b["labels"]),
        lambda model: torch.optim.Adam(model.parameters()),
        predict=lambda model, b: model(*(b[key] for key in given)),
    )
    found = judge(chosen(codes, known=RULES), Experiment.of(subject)).findings
    return {f.code: f.site for f in found if f.verdict.rank > Verdict.NOTE.rank}


class ByIds(nn.Module):
    """Its mask is taken from the ids; the lengths tell it where to read."""

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.trunk = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, 3)
        self.pool = pool

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        hidden = self.trunk(self.embedding(ids), src_key_padding_mask=ids == 0)
        logits: Tensor = self.head(self.pool(hidden, lengths))
        return logits


class ByFrames(nn.Module):
    """Its mask is taken from frames that are all zero."""

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self.into, self.head, self.pool = nn.Linear(4, 16), nn.Linear(16, 3), pool

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        there = (frames.abs().sum(-1) > 0)[..., None]
        hidden = torch.tanh(self.into(frames))
        logits: Tensor = self.head(self.pool(hidden * there, lengths))
        return logits


def last(hidden: Tensor, lengths: Tensor) -> Tensor:
    return hidden[torch.arange(len(hidden)), lengths - 1]


def every(hidden: Tensor, lengths: Tensor) -> Tensor:
    return hidden.mean(1)


def total(hidden: Tensor, lengths: Tensor) -> Tensor:
    return hidden.sum(1) / lengths[:, None]


def padded(floats: bool = False) -> Batch:
    chance = torch.Generator().manual_seed(0)
    keep = torch.arange(9) < LENGTHS[:, None]
    ids = torch.randint(3, 50, (6, 9), generator=chance) * keep
    frames = torch.randn(6, 9, 4, generator=chance) * keep[..., None]
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    read = {"frames": frames} if floats else {"ids": ids}
    return read | {"lengths": LENGTHS, "labels": labels}


@pytest.mark.parametrize(("pool", "codes"), [(last, []), (every, ["MSK001"])])
def test_a_mask_taken_from_the_ids_is_a_contract_and_what_leaks_beside_it_is_told(
    pool: Pool, codes: list[str]
) -> None:
    found = said(ByIds(pool), padded(), ("ids", "lengths"), ["MSK001", "MSK006"])
    assert sorted(found) == codes


@pytest.mark.parametrize(("leaks", "codes"), [(False, []), (True, ["MSK001"])])
def test_a_mask_taken_from_the_frames_is_a_contract_as_well(leaks: bool, codes: list[str]) -> None:
    class Frames(ByFrames):
        def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
            logits = super().forward(frames, lengths)
            return logits + self.head(self.into(frames).mean(1)) if leaks else logits

    found = said(Frames(total), padded(floats=True), ("frames", "lengths"), ["MSK001"])
    assert sorted(found) == codes
