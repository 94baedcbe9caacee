"""The user's own line at which what is not to be read comes in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


def lines(code: str) -> set[str]:
    """`test_line.py:40` for what is marked with a code."""
    text = Path(__file__).read_text().splitlines()
    return {f"test_line.py:{i}" for i, one in enumerate(text, 1) if one.endswith(f"# {code}")}


@pytest.mark.parametrize(("model", "code"), [(Mean, "MSK001"), (Mixed, "MSK002")])
def test_it_is_the_first_whose_result_differs_where_it_is_not_to(
    model: type[nn.Module], code: str
) -> None:
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 50, (6, 9), generator=chance) * (torch.arange(9) < LENGTHS[:, None])
    seed_everything(0)
    subject = Subject(
        model(),
        [{"ids": ids, "lengths": LENGTHS, "labels": torch.tensor([0, 1, 2, 0, 1, 2])}],
        lambda model, b: F.cross_entropy(model(b["ids"], b["lengths"]), b["labels"]),
        lambda model: torch.optim.Adam(model.parameters()),
    )
    (found,) = judge(chosen([code], known=RULES), Experiment.of(subject)).findings
    assert (found.source or "").rpartition("/")[2] in lines(code)
