"""Masks of tokens at an attention that has a key more than there are tokens."""

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
WORDS, LONG, WIDE = 30, 10, 16


class Reader(nn.Module):
    """A summary in front of the tokens, behind them, or behind the last one of each row.

    extended: the side on which the mask has one more, or `padded ids` where those have.
    """

    def __init__(self, summary: str, extended: str, bias: bool = False) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(WORDS, WIDE), nn.Embedding(LONG + 1, WIDE)
        self.summary, self.head = nn.Parameter(torch.randn(1, 1, WIDE)), nn.Linear(WIDE, 3)
        self.attention = nn.MultiheadAttention(WIDE, 2, batch_first=True, add_bias_kv=bias)
        self.where, self.extended = summary, extended

    def forward(self, ids: Tensor, pad: Tensor | None = None) -> Tensor:
        x, hidden = self.table(ids), ids == 0 if pad is None else pad
        count, one = (~hidden).sum(1), self.summary.expand(len(ids), -1, -1)
        if self.where == "none":
            return self.head(self.attend(x + self.places.weight[:-1], hidden).mean(1))
        x = torch.cat([one, x] if self.where == "front" else [x, one], 1)
        if self.where == "inserted":  # over what is padding
            here = torch.arange(LONG + 1) == count[:, None]
            x = torch.where(here[..., None], one, x)
        sides = (1, 0) if self.extended == "front" else (0, 1)
        longer = F.pad(hidden, sides, value=self.extended == "padded ids")
        if self.where == "inserted":
            longer = torch.arange(LONG + 1) > count[:, None]
        out = self.attend(x + self.places.weight, longer)
        at = {"front": torch.zeros_like(count), "end": torch.full_like(count, LONG)}
        scores: Tensor = self.head(out[torch.arange(len(out)), at.get(self.where, count)])
        return scores

    def attend(self, x: Tensor, hidden: Tensor) -> Tensor:
        out: Tensor = self.attention(x, x, x, key_padding_mask=hidden)[0]
        return out


def told(model: nn.Module, left: bool = False, masked: bool = False) -> Iterator[Finding]:
    count = torch.randint(3, LONG + 1, (16, 1))
    places = torch.arange(LONG).flip(0) if left else torch.arange(LONG)
    ids = torch.randint(1, WORDS, (16, LONG)).masked_fill(places >= count, 0)

    def predict(model: nn.Module, b: Batch) -> Tensor:
        out: Tensor = model(b["ids"], b.get("padding_mask"))
        return out

    def loss(model: nn.Module, b: Batch) -> Tensor:
        return F.cross_entropy(predict(model, b), b["kind"])

    def adam(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=0.01)

    batch = {"ids": ids, "kind": torch.randint(0, 3, (16,))}
    batch |= {"padding_mask": places.expand(16, -1) >= count} if masked else {}
    found = check(Subject(model, [batch], loss, adam, predict=predict), chosen(["MSK006"]))
    return (each for each in found.findings if each.verdict.rank > Verdict.NOTE.rank)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("extended", ["front", "end"])
@pytest.mark.parametrize("summary", ["front", "end"])
def test_a_mask_is_extended_where_the_tokens_are(
    summary: str, extended: str, left: bool, masked: bool
) -> None:
    seed_everything(0)
    found = list(told(Reader(summary, extended), left, masked))
    assert [(f.site, f.verdict) for f in found] == (
        [] if summary == extended else [("attention", Verdict.WARN)]
    )
    assert all(f.source is not None and "off along its keys" in f.message for f in found)


def test_ids_that_are_padded_where_the_summary_does_not_stand_are_told_too() -> None:
    seed_everything(0)
    assert len(list(told(Reader("front", "padded ids")))) == 1


@pytest.mark.parametrize(("summary", "bias"), [("inserted", False), ("none", True)])
def test_keys_that_stand_at_no_place_of_padding_or_behind_all_are_healthy(
    summary: str, bias: bool
) -> None:
    seed_everything(0)
    assert list(told(Reader(summary, "end", bias))) == []
