"""Rows of padding alone may see nothing; what counts is where others read them."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything


class Words(nn.Module):
    """A turn's vector, by attention over its words."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = nn.Linear(16, 1)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        scores = self.ask(x).squeeze(-1).masked_fill(~keep, -1e9)
        return torch.einsum("btn,btnd->btd", scores.softmax(-1), x)


class Chat(nn.Module):
    """Words to turns to a class.."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.table, self.words, self.head = nn.Embedding(40, 16), Words(), nn.Linear(16, 3)

    def forward(self, ids: Tensor) -> Tensor:
        turns = self.words(self.table(ids) + 0.1, ids != 0)
        there = (ids != 0).any(-1)[..., None]
        turns = turns.tanh()
        mixed = turns.mean(1)  # every turn
        if self.how == "masked":
            mixed = (turns * there).sum(1) / there.sum(1)
        logits: Tensor = self.head(mixed)
        return logits


def said(how: str) -> list[Finding]:
    seed_everything(0)
    count = torch.tensor([2, 3, 4, 5, 5, 3])
    ids = torch.randint(1, 40, (6, 5, 7))
    ids = ids.masked_fill(torch.arange(5)[:, None] >= count[:, None, None], 0)
    ids[:, :, 6] = 0
    subject = Subject(
        Chat(how),
        [{"ids": ids, "y": torch.tensor([0, 1, 2, 0, 1, 2])}],
        lambda m, b: F.cross_entropy(m(b["ids"]), b["y"]),
        lambda m: torch.optim.Adam(m.parameters()),
        predict=lambda m, b: m(b["ids"]),
    )
    found = check(subject, chosen(["MSK005"])).findings
    return [each for each in found if each.verdict is not Verdict.NOTE]


def test_it_is_told_where_they_meet_the_others() -> None:
    (found,) = said("all")
    text = Path(__file__).read_text().splitlines()
    (at,) = [i for i, one in enumerate(text, 1) if one.endswith("# every turn")]
    assert found.site == "model"
    assert (found.source or "").endswith(f"test_meeting.py:{at}")
    assert "the attention of `words` has" in found.message


def test_they_are_no_fault_where_nobody_reads_them() -> None:
    assert not said("masked")
