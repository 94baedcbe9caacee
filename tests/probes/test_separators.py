"""Spans beside the separators that stand between their units, by the ids alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Span = tuple[int, int]
Place = Callable[[int, int, int], Span]  # of unit, first word and length
CLS, SEP = 1, 2


class Sentences(nn.Module):
    """Scores units by the mean of their tokens."""

    def __init__(
        self, both_ways: bool = True, counts: bool = False, with_end: bool = False
    ) -> None:
        super().__init__()
        self.words, self.counts, self.with_end = nn.Embedding(40, 16), counts, with_end
        self.beside, self.both_ways = nn.Conv1d(16, 16, 3), both_ways
        self.norm, self.out = nn.LayerNorm(16), nn.Linear(16, 1)

    def forward(self, ids: Tensor, low: Tensor, high: Tensor) -> Tensor:
        before = F.pad(self.words(ids).mT, (1, 1) if self.both_ways else (2, 0))
        rows = self.norm(self.beside(before).mT)
        if self.counts:  # the separators in front of each unit
            number = torch.arange(low.shape[1])
            low, high = low + number, high + number
        at = torch.arange(ids.shape[1])
        inside = (at >= low[..., None]) & (at < high[..., None] + self.with_end)
        inside &= (high > 0)[..., None]
        weights = inside.float() / inside.sum(-1, keepdim=True).clamp(min=1)
        scores: Tensor = self.out(weights @ rows).squeeze(-1)
        return scores


def texts(place: Place, names: tuple[str, str], separated: bool = True) -> list[Batch]:
    chance = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(3):
        ids = torch.zeros(12, 40, dtype=torch.long)
        spans = torch.zeros(2, 12, 5, dtype=torch.long)
        for row in range(12):
            cursor = 1
            ids[row, 0] = CLS
            for unit in range(int(torch.randint(3, 6, (), generator=chance))):
                long = int(torch.randint(2, 6, (), generator=chance))
                words = torch.randint(3, 40, (long,), generator=chance)
                ids[row, cursor : cursor + long] = words
                spans[:, row, unit] = torch.tensor(place(unit, cursor, long))
                cursor += long
                if separated:
                    ids[row, cursor] = SEP
                    cursor += 1
        keep = (spans[1] > 0).float()
        wanted = torch.randint(2, (12, 5), generator=chance).float()
        low, high = names
        batches.append({"ids": ids, low: spans[0], high: spans[1], "keep": keep, "wanted": wanted})
    return batches


def right(unit: int, first: int, long: int) -> Span:
    return first, first + long


def with_separator(unit: int, first: int, long: int) -> Span:
    return first, first + long + 1


def to_the_last(unit: int, first: int, long: int) -> Span:
    return first, first + long - 1


def without_the_first(unit: int, first: int, long: int) -> Span:
    return first + 1, first + long


def uncounted(unit: int, first: int, long: int) -> Span:
    """The separators in front of the unit are not counted."""
    return first - unit, first - unit + long


def before(unit: int, first: int, long: int) -> Span:
    """What stands in front of all is not counted."""
    return first - 1, first + long - 1


def said(model: nn.Module, batches: list[Batch], names: tuple[str, str]) -> list[str]:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        scores = model(batch["ids"], *(batch[name] for name in names))
        each = F.binary_cross_entropy_with_logits(scores, batch["wanted"], reduction="none")
        return (each * batch["keep"]).sum() / batch["keep"].sum()

    subject = Subject(model, batches, loss, lambda m: torch.optim.Adam(m.parameters()))
    found = check(subject, chosen(["IDX001"])).findings
    return [each.message for each in found if each.site == "<data>"]


@pytest.mark.parametrize("names", [("starts", "ends"), ("lo", "hi")])
@pytest.mark.parametrize(
    ("place", "words"),
    [
        (uncounted, "grows by one token a unit, before its own: a separator that is not counted"),
        (before, "is 1 before each of its own, at both ends"),
    ],
)
def test_spans_that_lie_beside_what_stands_between_separators_are_told(
    names: tuple[str, str], place: Place, words: str
) -> None:
    seed_everything(0)
    [message] = said(Sentences(), texts(place, names), names)
    assert "id 2 stands between" in message
    assert words in message


@pytest.mark.parametrize(
    ("place", "separated", "model"),
    [
        (right, True, Sentences),
        (with_separator, True, Sentences),
        (without_the_first, True, Sentences),
        (to_the_last, True, lambda: Sentences(with_end=True)),
        (right, False, Sentences),
        (before, False, Sentences),
        (before, True, lambda: Sentences(both_ways=False)),
        (uncounted, True, lambda: Sentences(counts=True)),
    ],
)
def test_spans_that_are_meant_so_are_silent(
    place: Place, separated: bool, model: Callable[[], nn.Module]
) -> None:
    seed_everything(0)
    names = ("starts", "ends")
    assert said(model(), texts(place, names, separated), names) == []
