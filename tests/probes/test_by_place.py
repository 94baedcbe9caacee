"""What comes to a sample by its place in the batch is named with its line."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD

from probes import Subject
from probes.checking import check, chosen
from probes.seeding import seed_everything

Batch = dict[str, Tensor]


class Places(nn.Module):
    """axis: whose places are learned. learned: by a table, and not fixed ones."""

    def __init__(self, axis: int, learned: bool) -> None:
        super().__init__()
        self.axis, self.learned = axis, learned
        self.table = nn.Embedding(64, 16)
        self.register_buffer("fixed", torch.randn(64, 1, 16))

    def forward(self, x: Tensor) -> Tensor:
        count = x.shape[self.axis]
        if self.learned:
            places = self.table(torch.arange(count)).unsqueeze(1)
        else:
            places = self.fixed[:count]
        return x + (places if self.axis == 0 else places.transpose(0, 1))


class Reader(nn.Module):
    def __init__(self, axis: int, learned: bool) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(30, 16), Places(axis, learned)
        self.read = nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, ids: Tensor) -> Tensor:
        read, _ = self.read(self.places(self.words(ids)))
        scores: Tensor = self.head(read.mean(1))
        return scores


class Bias(nn.Module):
    """A feature-wise shift that stands along the samples, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.read = nn.Parameter(torch.randn(40)), nn.Linear(16, 3)
        self.words = nn.Embedding(30, 16)

    def forward(self, ids: Tensor) -> Tensor:
        scores: Tensor = self.read(self.words(ids).mean(1))
        scores += self.shift[: len(scores), None]
        return scores


def said(model: nn.Module) -> list[tuple[str | None, str | None, bool]]:
    seed_everything(0)
    batch = {"ids": torch.randint(0, 30, (12, 9)), "labels": torch.arange(12) % 3}

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch["ids"]), batch["labels"])

    subject = Subject(
        model, [batch], loss, lambda m: SGD(m.parameters(), 0.1), lambda m, b: m(b["ids"])
    )
    found = check(subject, chosen(only=["MSK002"])).findings
    return [(f.site, f.op, "test_by_place.py" in (f.source or "")) for f in found]


@pytest.mark.parametrize("learned", [False, True])
def test_places_of_the_batch_are_named_where_they_are_joined(learned: bool) -> None:
    assert said(Reader(0, learned)) == [("places", "aten.add", True)]
    assert said(Reader(1, learned)) == []


def test_what_is_written_in_place_is_named() -> None:
    assert said(Bias()) == [("model", "aten.add_", True)]
