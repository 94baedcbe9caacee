"""Ids whose padding the model knows by itself: where some of it hides padding, all of it should."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
WORDS, WIDE = 30, 12


class Translator(nn.Module):
    """A decoder over an encoder that blocks what is `pad`; `crossed` blocks it there as well."""

    def __init__(self, crossed: bool, pad: int) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(WORDS, 16), nn.Linear(16, WORDS)
        self.body = nn.Transformer(16, 2, 1, 1, 16, dropout=0.0, batch_first=True)
        self.crossed, self.pad = crossed, pad

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        blocked = src == self.pad
        h = self.body(
            self.table(src),
            self.table(tgt),
            tgt_mask=nn.Transformer.generate_square_subsequent_mask(tgt.shape[1]),
            tgt_is_causal=True,
            src_key_padding_mask=blocked,
            memory_key_padding_mask=blocked if self.crossed else None,
        )
        out: Tensor = self.head(h)
        return out


class Words(nn.Module):
    """A pooling over words: their mean, their mean by all places, or what is largest of all."""

    def __init__(self, pooled: str) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, 16, padding_idx=0)
        self.head, self.pooled = nn.Linear(16, 3), pooled

    def forward(self, ids: Tensor) -> Tensor:
        x = F.relu(self.table(ids) + 0.1)
        if self.pooled == "largest":  # it asks for no padding
            pooled = x.amax(1)
        else:
            seen = ids.ne(0)[..., None]
            pooled = (x * seen).sum(1) / (seen.sum(1) if self.pooled == "mean" else ids.shape[1])
        out: Tensor = self.head(pooled)
        return out


def padded(pad: int) -> Tensor:
    seed_everything(0)
    ids = torch.randint(1, WORDS - 1, (16, WIDE))
    count = torch.randint(2, WIDE + 1, (16, 1))
    return ids.masked_fill(torch.arange(WIDE) >= count, pad)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.01)


def told(subject: Subject) -> Iterator[Finding]:
    found = check(subject, chosen(only=["MSK004"])).findings
    return (each for each in found if each.verdict.rank > Verdict.NOTE.rank)


@pytest.mark.parametrize("pad", [0, WORDS - 1])
@pytest.mark.parametrize("crossed", [True, False])
def test_a_decoder_that_reads_the_padding_of_its_memory_is_told(crossed: bool, pad: int) -> None:
    src, tgt = padded(pad), torch.randint(1, WORDS - 1, (16, 7))

    def predict(model: nn.Module, b: Batch) -> Tensor:
        out: Tensor = model(b["src"], b["tgt"][:, :-1])
        return out

    def loss(model: nn.Module, b: Batch) -> Tensor:
        return F.cross_entropy(predict(model, b).flatten(0, 1), b["tgt"][:, 1:].flatten())

    batch = {"src": src, "tgt": tgt}
    found = list(told(Subject(Translator(crossed, pad), [batch], loss, adam, predict=predict)))
    sites = [] if crossed else ["body.decoder.layers.0.multihead_attn"]
    assert [each.site for each in found] == sites


@pytest.mark.parametrize(("pooled", "count"), [("mean", 0), ("all", 1), ("largest", 0)])
def test_a_mean_by_all_places_is_told_where_the_code_asks_for_padding(
    pooled: str, count: int
) -> None:
    ids = padded(0)

    def predict(model: nn.Module, b: Batch) -> Tensor:
        out: Tensor = model(b["words"])
        return out

    def loss(model: nn.Module, b: Batch) -> Tensor:
        return F.cross_entropy(predict(model, b), b["kind"])

    batch = {"words": ids, "kind": ids[:, 0] % 3}
    found = list(told(Subject(Words(pooled), [batch], loss, adam, predict=predict)))
    assert len(found) == count
