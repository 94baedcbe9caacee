"""Rows padded on the left, whose positions are counted from there or from the first token."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Verdict
from probes.seeding import seed_everything

Batch = dict[str, Tensor]


class Reader(nn.Module):
    """Reads the last place of a causal attention."""

    def __init__(self, from_first: bool) -> None:
        super().__init__()
        self.from_first = from_first
        self.word, self.place = nn.Embedding(40, 16), nn.Embedding(40, 16)
        self.attend = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1]).expand_as(ids)
        if self.from_first:
            places = (mask.cumsum(-1) - 1).clamp(min=0)
        x = self.word(ids) + self.place(places)
        out, _ = self.attend(x, x, x, key_padding_mask=mask == 0, need_weights=False)
        return self.head(out[:, -1])  # type: ignore[no-any-return]


def padded(lengths: list[int], width: int) -> Batch:
    keep = torch.arange(width) >= width - torch.tensor(lengths)[:, None]
    ids = torch.where(keep, torch.randint(1, 40, keep.shape), 0)
    return {"ids": ids, "mask": keep.long(), "labels": torch.arange(len(lengths)) % 3}


def verdicts(from_first: bool, widths: list[int]) -> list[Verdict]:
    seed_everything(0)
    batches = [padded([width, 5, 4, 3], width) for width in widths]
    if len(set(widths)) == 1:
        batches = [padded([7, 5, 4, 3], width) for width in widths]
    subject = Subject(
        Reader(from_first),
        batches,
        lambda m, b: F.cross_entropy(m(b["ids"], b["mask"]), b["labels"]),
        lambda m: torch.optim.Adam(m.parameters()),
        predict=lambda m, b: m(b["ids"], b["mask"]),
    )
    return [each.verdict for each in check(subject, chosen(["MSK004"])).findings]


@pytest.mark.parametrize(
    ("from_first", "widths", "expected"),
    [
        (False, [9, 7, 8], [Verdict.WARN]),
        (False, [10, 10, 10], [Verdict.NOTE]),
        (True, [9, 7, 8], []),
        (True, [10, 10, 10], []),
    ],
)
def test_places_counted_from_the_padded_end_hang_on_the_longest_row(
    from_first: bool, widths: list[int], expected: list[Verdict]
) -> None:
    assert verdicts(from_first, widths) == expected
