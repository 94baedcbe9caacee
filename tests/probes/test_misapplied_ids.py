"""Masks that a model makes of its own ids, where they are laid along the wrong axis."""

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
WORDS, LONG, WIDE = 30, 10, 16


class Reader(nn.Module):
    """One attention over ids, of those before alone where `causal`, blocked as `how` says."""

    def __init__(self, how: str, causal: bool) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(WORDS, WIDE), nn.Embedding(LONG, WIDE)
        self.qkv, self.head = nn.Linear(WIDE, 3 * WIDE), nn.Linear(WIDE, WORDS)
        self.how, self.causal = how, causal

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids) + self.places.weight
        real, square = ids != 0, torch.ones(LONG, LONG, dtype=torch.bool)
        queries, keys = real[:, :, None], real[:, None]
        mask = {"queries": queries, "keys": keys, "both": queries & keys}[self.how]
        there = ((square.tril() if self.causal else square) & mask) | torch.eye(LONG).bool()
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = (q @ k.transpose(1, 2)).masked_fill(~there, -torch.inf)
        out: Tensor = self.head(x + scores.softmax(-1) @ v)
        return out


def told(model: nn.Module, left: bool) -> list[Finding]:
    count = torch.randint(3, LONG + 1, (16, 1))
    places = torch.arange(LONG).flip(0) if left else torch.arange(LONG)
    ids = torch.randint(1, WORDS, (16, LONG)).masked_fill(places >= count, 0)

    def loss(model: nn.Module, b: Batch) -> Tensor:
        labels = b["next"].masked_fill(b["history"] == 0, -100)
        return F.cross_entropy(model(b["history"]).flatten(0, 1), labels.flatten())

    def adam(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=0.01)

    batch = {"history": ids, "next": torch.randint(0, WORDS, (16, LONG))}
    return list(check(Subject(model, [batch], loss, adam), chosen(["MSK006"])).findings)


@pytest.mark.parametrize("how", ["queries", "keys", "both"])
@pytest.mark.parametrize("causal", [True, False])
def test_a_mask_of_ids_along_the_queries_is_told_beside_a_causal_one(
    how: str, causal: bool
) -> None:
    seed_everything(0)
    found = told(Reader(how, causal), left=True)
    assert [each.verdict for each in found] == ([Verdict.WARN] if how == "queries" else [])
    assert all("on the axis of the queries" in each.message for each in found)


def test_what_pads_on_the_right_ask_is_no_matter_where_none_before_reads_them() -> None:
    seed_everything(0)
    assert told(Reader("queries", causal=True), left=False) == []
