"""Rows of several documents: what crosses their borders, and what is put together by design."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checks.crossing import Crossing
from probes.experiment import Experiment
from probes.finding import judge
from probes.seeding import seed_everything

Batch = dict[str, Tensor]


class Packed(nn.Module):
    """Attention within documents, over tokens that something was done to first.

    first: `nothing`, `convolution` over the token before, `sentences` that are summed up and added
    to all tokens of the documents after.
    """

    def __init__(self, first: str, layers: int, causal: bool) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(30, 16), nn.Linear(16, 30)
        self.mix = nn.Conv1d(16, 16, 2, padding=1)
        self.attention = nn.ModuleList(
            nn.MultiheadAttention(16, 2, batch_first=True) for _ in range(layers)
        )
        self.first, self.causal = first, causal

    def forward(self, b: Batch) -> Tensor:
        hidden, doc = self.embedding(b["ids"]), b["doc"]
        apart = doc[:, :, None] != doc[:, None, :]
        if self.first == "convolution":
            hidden = hidden + self.mix(hidden.mT)[..., :-1].mT
        if self.first == "sentences":
            earlier = (doc[:, :, None] > doc[:, None, :]).float()
            hidden = hidden + earlier @ hidden / 9
        if self.first == "everything":
            apart = torch.zeros_like(apart)
        later = torch.ones_like(apart[0]).triu(1) if self.causal else torch.zeros_like(apart[0])
        mask = (apart | later).repeat_interleave(2, dim=0)
        for each in self.attention:
            hidden = hidden + each(hidden, hidden, hidden, attn_mask=mask)[0]
        logits: Tensor = self.head(hidden)
        return logits


def found(model: nn.Module, padded: bool = False) -> int:
    seed_everything(0)
    chance = torch.Generator().manual_seed(0)
    cuts = torch.randint(3, 6, (6, 3), generator=chance).cumsum(1)
    doc = (torch.arange(18)[None, :, None] >= cuts[:, None]).sum(2)
    ids = torch.randint(1, 30, (6, 18), generator=chance)
    if padded:  # one text a row, and its padding
        doc = (doc > 1).long()
        ids = ids * (doc == 0)
    batch = {"ids": ids, "doc": doc}
    subject = Subject(
        model,
        [batch],
        lambda m, b: F.cross_entropy(
            m(b)[:, :-1].flatten(0, 1), b["ids"][:, 1:].flatten(), ignore_index=0
        ),
        lambda m: torch.optim.Adam(m.parameters()),
        predict=lambda m, b: m(b),
    )
    return len(judge([Crossing()], Experiment.of(subject)).findings)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("causal", [True, False])
def test_what_crosses_a_border_next_to_it_is_told_whatever_comes_of_it(
    layers: int, causal: bool
) -> None:
    assert found(Packed("convolution", layers, causal)) == 1
    assert found(Packed("nothing", layers, causal)) == 0


@pytest.mark.parametrize("first", ["sentences", "everything"])
def test_documents_that_are_put_together_by_design_are_silence(first: str) -> None:
    assert found(Packed(first, 2, causal=True)) == 0


def test_padding_is_no_document() -> None:
    assert found(Packed("convolution", 2, causal=True), padded=True) == 0
