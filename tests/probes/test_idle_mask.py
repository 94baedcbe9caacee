"""Lengths that nobody reads, over labels that the loss leaves out, or does not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from probes import Subject
from probes.checks.idle_mask import IdleMask
from probes.experiment import Experiment


class Speaker(nn.Module):
    """Reads the tokens before, and gives scores of the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.rnn = nn.Embedding(20, 16), nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, 20)

    def forward(self, before: Tensor) -> Tensor:
        scores: Tensor = self.head(self.rnn(self.embedding(before))[0])
        return scores


@pytest.mark.parametrize("ignored", [0, -100])
def test_labels_that_the_loss_ignores_need_no_lengths(ignored: int) -> None:
    chance = torch.Generator().manual_seed(0)
    lengths = torch.tensor([3, 5, 8, 4, 6, 7, 8])
    said = torch.randint(2, 20, (7, 8), generator=chance)
    said[torch.arange(8) >= lengths[:, None]] = 0
    before = torch.cat([torch.ones(7, 1, dtype=torch.long), said[:, :-1]], 1)
    subject = Subject(
        Speaker(),
        [{"before": before, "said": said, "said_len": lengths}],
        lambda model, batch: nn.functional.cross_entropy(
            model(batch["before"]).flatten(0, 1), batch["said"].flatten(), ignore_index=ignored
        ),
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
        predict=lambda model, batch: model(batch["before"]),
    )
    found = list(IdleMask().judge(Experiment.of(subject)))
    assert bool(found) == (ignored != 0)
