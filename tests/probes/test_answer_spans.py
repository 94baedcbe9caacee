"""Answers between two places, in a passage that stands behind a question."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding
from probes.seeding import seed_everything

ASKED, PASSAGE = 4, 9


class Reader(nn.Module):
    """Scores of a first and a last place; a question and a passage stand in one sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(40, 8)
        self.mix, self.ends = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, question: Tensor, passage: Tensor) -> Tensor:
        cls, sep = (question.new_full((len(question), 1), i) for i in (1, 2))
        x = self.words(torch.cat([cls, question, sep, passage], 1))
        scores: Tensor = self.ends(x + self.mix(x.mean(1, keepdim=True)))
        return scores


def said(added: int, answers: str = "inside") -> list[Finding]:
    """added: to the places. answers: how they are counted."""
    seed_everything(0)
    start = torch.randint(0, PASSAGE - 2, (60,))
    end = start + torch.randint(0, 3, (60,))
    if answers == "exclusive":
        end = end + 1
    elif answers == "from one":
        start, end = start + 1, end + 1
    elif answers == "none at 0":
        none = torch.rand(60) < 0.3
        start, end = (start + 1).masked_fill(none, 0), (end + 1).masked_fill(none, 0)
    batch = {
        "question": torch.randint(3, 40, (60, ASKED)),
        "passage": torch.randint(3, 40, (60, PASSAGE)),
        "answer_start": start,
        "answer_end": end,
    }

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        first, last = model(batch["question"], batch["passage"]).unbind(-1)
        one = F.cross_entropy(first, batch["answer_start"] + added)
        return one + F.cross_entropy(last, batch["answer_end"] + added)

    subject = Subject(Reader(), [batch], loss, lambda m: torch.optim.Adam(m.parameters()))
    return list(check(subject, chosen(["LBL010"])).findings)


@pytest.mark.parametrize(("added", "by"), [(ASKED + 1, 1), (ASKED, 2)])
def test_answers_that_begin_before_their_passage_are_told(added: int, by: int) -> None:
    [found] = said(added)
    assert f"scored {by} before" in found.message
    assert found.source is not None
    assert "test_answer_spans.py" in found.source


@pytest.mark.parametrize(
    ("added", "answers"),
    [
        (ASKED + 2, "inside"),
        (ASKED + 1, "from one"),
        (ASKED + 1, "none at 0"),
        (ASKED + 1, "exclusive"),  # as borders behind places
        (0, "inside"),  # counted from elsewhere
    ],
)
def test_answers_within_their_passage_or_counted_otherwise_are_well(
    added: int, answers: str
) -> None:
    assert said(added, answers) == []
