"""Places of tokens, where the model itself puts a special token before them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
STARTS = torch.tensor([[0, 2, 3, 5, 8], [0, 1, 4, 6, 0], [0, 3, 5, 0, 0], [0, 2, 4, 7, 9]])
THERE = torch.tensor([5, 4, 3, 5])[:, None] > torch.arange(5)


class Tagger(nn.Module):
    """Reads the first piece of each word. skips: whether its own token is left out before."""

    def __init__(self, skips: bool, fronts: int = 1) -> None:
        super().__init__()
        self.skips = skips
        self.emb, self.place = nn.Embedding(40, 16), nn.Embedding(16, 16)
        self.front = nn.Parameter(0.1 * torch.randn(1, fronts, 16))
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, pieces: Tensor, starts: Tensor) -> Tensor:
        x = torch.cat([self.front.expand(len(pieces), -1, -1), self.emb(pieces)], 1)
        h = self.block(x + self.place(torch.arange(x.shape[1])))
        if self.skips:
            h = h[:, self.front.shape[1] :]
        return self.head(h.gather(1, starts[..., None].expand(-1, -1, 16)))  # type: ignore[no-any-return]


def told(model: nn.Module, counts: int = 0) -> tuple[Finding, ...]:
    """counts: the special tokens that the places in the data count as well."""
    seed_everything(0)
    pieces = torch.randint(1, 40, (4, 11))
    starts = torch.where(THERE, STARTS + counts, 0)
    batch = {
        "pieces": pieces,
        "word_start": starts,
        "tags": torch.where(THERE, torch.randint(0, 4, (4, 5)), -100),
    }

    def loss(model: nn.Module, b: Batch) -> Tensor:
        scores = model(b["pieces"], b["word_start"])
        return F.cross_entropy(scores.flatten(0, 1), b["tags"].flatten(), ignore_index=-100)

    subject = Subject(
        model,
        [batch],
        loss,
        lambda m: torch.optim.Adam(m.parameters()),
        predict=lambda m, b: m(b["pieces"], b["word_start"]),
    )
    return check(subject, chosen(["IDX001"])).findings


@pytest.mark.parametrize("fronts", [1, 2])
def test_what_the_model_puts_in_front_and_does_not_count_is_told(fronts: int) -> None:
    seed_everything(0)
    (one,) = told(Tagger(skips=False, fronts=fronts))
    assert one.verdict is Verdict.WARN
    assert f"every unit reads {fronts} token{'s' * (fronts > 1)} before its span" in one.message
    assert one.source is not None
    assert one.source.startswith("tests/probes/test_put_in_front.py")


def test_what_is_left_out_or_counted_is_healthy() -> None:
    seed_everything(0)
    assert told(Tagger(skips=True)) == ()
    assert told(Tagger(skips=False), counts=1) == ()
