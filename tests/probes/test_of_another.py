"""A source that is packed by its own lengths, or by those of its target."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from probes import Subject
from probes.checks.misapplied_mask import MisappliedMask
from probes.experiment import Experiment

Batch = dict[str, Tensor]
SOURCE, TARGET = torch.tensor([6, 8, 5, 7, 8, 9, 6]), torch.tensor([3, 5, 5, 4, 6, 2, 3])


class Translator(nn.Module):
    """by: the key of lengths that the source is packed by; None to read a fixed number of ids."""

    def __init__(self, by: str | None) -> None:
        super().__init__()
        self.by = by
        self.embedding, self.head = nn.Embedding(20, 16), nn.Linear(16, 20)
        self.encoder, self.decoder = (nn.GRU(16, 16, batch_first=True) for _ in range(2))

    def forward(self, batch: Batch) -> Tensor:
        read = self.embedding(batch["source"])
        lengths = torch.full((len(read),), 2) if self.by is None else batch[self.by].cpu()
        packed = nn.utils.rnn.pack_padded_sequence(
            read, lengths, batch_first=True, enforce_sorted=False
        )
        state = self.encoder(packed)[1]
        scores: Tensor = self.head(self.decoder(self.embedding(batch["before"]), state)[0])
        return scores


def padded(lengths: Tensor, width: int) -> Tensor:
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(2, 20, (len(lengths), width), generator=chance)
    return ids.masked_fill(torch.arange(width) >= lengths[:, None], 0)


@pytest.mark.parametrize(
    ("by", "told"), [("target_len", True), ("source_len", False), (None, False)]
)
def test_a_source_is_read_as_far_as_its_own_lengths_say(by: str | None, told: bool) -> None:
    said = padded(TARGET, 6)
    batch = {
        "source": padded(SOURCE, 9),
        "source_len": SOURCE,
        "before": torch.cat([torch.ones(7, 1, dtype=torch.long), said[:, :-1]], 1),
        "said": said,
        "target_len": TARGET,
    }
    subject = Subject(
        Translator(by),
        [batch],
        lambda model, batch: nn.functional.cross_entropy(
            model(batch).flatten(0, 1), batch["said"].flatten(), ignore_index=0
        ),
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
        predict=lambda model, batch: model(batch),
    )
    found = [each.message for each in MisappliedMask().judge(Experiment.of(subject))]
    assert any("`source` is read as far as `target_len` says" in each for each in found) == told
