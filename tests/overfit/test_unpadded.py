"""Padding goes by the others of a batch, and makes no two samples differ."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overfit.ceilings import CONFLICT
from overfit.look import Looker
from overfit.unpadded import unpadded
from probes import Layout, Mask, Subject

TEXTS = [[5, 9, 3], [7, 2, 8, 4, 6], [5, 9, 3], [11, 4]]


class Mean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, ids: Tensor, keep: Tensor) -> Tensor:
        shown = self.embed(ids) * keep[..., None]
        return self.out(shown.sum(1) / keep.sum(1, keepdim=True))  # type: ignore[no-any-return]


def batch(texts: list[list[int]], labels: list[int], left: bool = False, pad: int = 0) -> Any:
    wide = max(map(len, texts))
    fill = [[pad] * (wide - len(each)) for each in texts]
    keep = [[0] * len(f) for f in fill]
    rows = [(f + t, k + [1] * len(t)) for t, f, k in zip(texts, fill, keep, strict=True)]
    if not left:
        rows = [(t + f, [1] * len(t) + k) for t, f, k in zip(texts, fill, keep, strict=True)]
    return {
        "input_ids": torch.tensor([ids for ids, _ in rows]),
        "attention_mask": torch.tensor([shown for _, shown in rows]),
        "labels": torch.tensor(labels),
    }


def conflicts(batches: list[Any]) -> list[tuple[int, ...]]:
    subject = Subject(
        Mean(),
        batches,
        lambda m, b: F.cross_entropy(m(b["input_ids"], b["attention_mask"]), b["labels"]),
        lambda m: torch.optim.Adam(m.parameters()),
    )
    found = Looker(subject, batches, {}).facts().ceilings
    return [each.samples for each in found if each.name == CONFLICT]


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_a_text_beside_longer_ones_is_the_same_text(left: bool) -> None:
    wide, narrow = batch(TEXTS[:2], [0, 1], left), batch(TEXTS[2:], [2, 1], left)
    assert conflicts([wide, narrow]) == [(0, 2)]
    same = batch(TEXTS[2:], [0, 1], left)
    assert conflicts([wide, same]) == []


def test_a_text_that_goes_on_is_another() -> None:
    wide = batch([[5, 9, 3, 1], [7, 2, 8, 4, 6]], [0, 1])
    assert conflicts([wide, batch(TEXTS[2:], [2, 1])]) == []


def test_what_is_hidden_and_is_no_padding_stays() -> None:
    one = batch(TEXTS[:2], [0, 1])
    assert unpadded(one, Layout())["input_ids"] == (slice(0, 3), slice(0, 5))
    one["input_ids"][0, 3:] = torch.tensor([12, 13])
    mask = Mask("attention_mask", hides=("input_ids",))
    assert "input_ids" not in unpadded(one, Layout(masks=(mask,)))
