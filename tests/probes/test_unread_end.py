"""The last id of a sample, or the first, that nobody reads."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding
from probes.seeding import seed_everything

ITEMS, LONG = 5, 8


class Bag(nn.Module):
    """The mean of a sample's ids, but for those that are left out."""

    def __init__(self, left_out: str) -> None:
        super().__init__()
        self.items, self.head = nn.Embedding(ITEMS + 3, 8), nn.Linear(8, ITEMS + 3)
        self.left_out = left_out

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        seen = mask.clone()
        if self.left_out == "last":
            seen = seen.scatter(1, mask.sum(1, keepdim=True) - 1, 0)
        elif self.left_out == "first":
            seen[:, 0] = 0
        wide = self.items(ids) * seen[..., None]
        out: Tensor = self.head(wide.sum(1) / seen.sum(1, keepdim=True))
        return out


def said(left_out: str, tells: str, ends: bool = False) -> list[Finding]:
    """tells: which id the label follows; ends: all samples end in one id."""
    seed_everything(0)
    batches = []
    for _ in range(4):
        ids = torch.randint(1, ITEMS + 1, (32, LONG))
        length = torch.randint(3, LONG + 1, (32,))
        if ends:
            ids = ids.scatter(1, length[:, None] - 1, ITEMS + 1)
        last = ids.gather(1, length[:, None] - 1)[:, 0]
        label = {"last": (last + 2) % ITEMS, "first": (ids[:, 0] + 2) % ITEMS, "itself": last}
        mask = (torch.arange(LONG) < length[:, None]).long()
        y = label.get(tells, torch.randint(ITEMS, (32,)))
        batches.append({"ids": ids * mask, "attention_mask": mask, "label": y})
    subject = Subject(
        Bag(left_out),
        batches,
        lambda model, b: F.cross_entropy(model(b["ids"], b["attention_mask"]), b["label"]),
        lambda model: torch.optim.Adam(model.parameters()),
    )
    return list(check(subject, chosen(["WIR032"])).findings)


@pytest.mark.parametrize("end", ["last", "first"])
def test_an_end_that_tells_and_is_not_read_is_told(end: str) -> None:
    [found] = said(end, end)
    assert f"the {end} id of any sample of `ids`" in found.message


@pytest.mark.parametrize(
    ("left_out", "tells", "ends"),
    [
        ("", "last", False),
        ("last", "nothing", False),
        ("last", "itself", False),  # to be guessed, and not to be read
        ("last", "last", True),  # one id in all samples
        ("first", "last", False),
    ],
)
def test_an_end_that_is_read_or_tells_nothing_is_silent(
    left_out: str, tells: str, ends: bool
) -> None:
    assert said(left_out, tells, ends) == []
