"""Lengths that stand in another order than the rows that they are of."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from probes import Subject
from probes.checks.full_lengths import FullLengths
from probes.experiment import Experiment
from probes.finding import Finding

LENGTHS = torch.tensor([3, 5, 8, 4, 6, 7, 8, 2, 5])
ORDER = LENGTHS.argsort(descending=True, stable=True)


class Reader(nn.Module):
    """One answer a row, from its last token. floats: rows of vectors and not of ids."""

    def __init__(self, floats: bool) -> None:
        super().__init__()
        self.embedding = nn.Linear(2, 8) if floats else nn.Embedding(20, 8)
        self.rnn, self.head = nn.GRU(8, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, rows: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embedding(rows), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        scores: Tensor = self.head(self.rnn(packed)[1][-1])
        return scores


def found(lengths: Tensor, floats: bool = False, **more: Tensor) -> list[Finding]:
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(2, 20, (9, 8), generator=chance)
    ids[torch.arange(8) >= LENGTHS[:, None]] = 0
    rows = torch.stack([ids, ids * 2], -1).float() if floats else ids
    batch = {"rows": rows, "lengths": lengths, "labels": torch.arange(9) % 3, **more}
    subject = Subject(
        Reader(floats),
        [batch],
        lambda model, batch: nn.functional.cross_entropy(
            model(batch["rows"], batch["lengths"]), batch["labels"]
        ),
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
    )
    experiment = Experiment.of(subject)
    rule = FullLengths()
    return [] if rule.lacks(experiment) else list(rule.judge(experiment))


@pytest.mark.parametrize("floats", [False, True])
def test_lengths_that_were_sorted_alone_are_told(floats: bool) -> None:
    (finding,) = found(LENGTHS[ORDER], floats)
    assert "different orders" in finding.message


@pytest.mark.parametrize("floats", [False, True])
def test_lengths_of_the_rows_themselves_are_silence(floats: bool) -> None:
    assert found(LENGTHS, floats) == []


def test_lengths_beside_their_order_are_silence() -> None:
    assert found(LENGTHS[ORDER], perm=ORDER) == []


def test_other_lengths_are_no_other_order() -> None:
    assert found((LENGTHS - 1).roll(1)) == []
