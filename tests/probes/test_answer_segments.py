"""Answers in a passage that shares its row with a question, of another length in every row."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding
from probes.seeding import seed_everything

CLS, SEP, ROWS = 1, 2, 120


class Reader(nn.Module):
    """Scores of a first and a last place. moves: they begin at the passage's first place."""

    def __init__(self, moves: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(40, 8)
        self.mix, self.ends, self.moves = nn.Linear(8, 8), nn.Linear(8, 2), moves

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        scores: Tensor = self.ends(x + self.mix(x.mean(1, keepdim=True)))
        if self.moves:
            begins = (ids == SEP).long().argmax(1) + 1
            at = (torch.arange(ids.shape[1]) + begins[:, None]).clamp(max=ids.shape[1] - 1)
            scores = scores.gather(1, at[..., None].expand_as(scores))
        return scores


def one_of(low: int, high: int) -> int:
    return int(torch.randint(low, high, ()))


def span(low: int, high: int) -> tuple[int, int]:
    """Of up to three places, within the bounds."""
    start = one_of(low, high)
    return start, min(start + one_of(0, 3), high - 1)


def answer(counted: str, asked: int, length: int) -> tuple[int, int]:
    """First and last place of one answer."""
    begins = asked + 2
    if counted == "question or passage":
        return span(1, 1 + asked) if one_of(0, 2) else span(begins, begins + length)
    if counted == "early":  # in either text, as far as the passage is long
        if length <= begins or one_of(0, 2):
            return span(1, min(1 + asked, length))
        return span(begins, length)
    if counted == "both":  # a place in each, or two in one
        first, last = sorted(one_of(1, begins + length) for _ in range(2))
        return first, last
    if counted == "passage first":
        return span(1, 1 + length)
    start, end = span(0, length)
    if counted == "none" and one_of(0, 3) == 0:
        return 0, 0
    added = 0 if counted == "relative" else begins
    return start + added, end + added


def rows_of(counted: str, types: bool) -> dict[str, Tensor]:
    """One batch; with types of the tokens in place of a separator that they all have."""
    ids, kinds, places = [], [], []
    for _ in range(ROWS):
        asked, length = one_of(2, 8), one_of(6, 14)
        texts = [torch.randint(4, 40, (n,)).tolist() for n in (asked, length)]
        if counted == "passage first":
            texts.reverse()
        seps = [one_of(4, 40) if types else SEP for _ in range(2)]
        row = [CLS, *texts[0], seps[0], *texts[1], seps[1]]
        ids.append(F.pad(torch.tensor(row), (0, 24 - len(row))))
        kind = torch.tensor([1] * (len(texts[0]) + 2) + [2] * (len(texts[1]) + 1))
        kinds.append(F.pad(kind, (0, 24 - len(row))))
        places.append(answer(counted, asked, length))
    start, end = torch.tensor(places).unbind(1)
    batch = {"ids": torch.stack(ids), "start": start, "end": end}
    return {**batch, "types": torch.stack(kinds)} if types else batch


def said(
    counted: str, types: bool = False, moves: bool = False, one: bool = False
) -> list[Finding]:
    """counted: how. moves: scores to the passage. one: just the first place is asked for."""
    seed_everything(0)
    batch = rows_of(counted, types)
    if one:
        del batch["end"]

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        first, last = model(batch["ids"]).unbind(-1)
        total = F.cross_entropy(first, batch["start"])
        return total if one else total + F.cross_entropy(last, batch["end"])

    subject = Subject(Reader(moves), [batch], loss, lambda m: torch.optim.Adam(m.parameters()))
    return list(check(subject, chosen(["LBL010"])).findings)


@pytest.mark.parametrize(("types", "one"), [(True, False), (False, False), (False, True)])
def test_places_that_count_from_the_passage_are_told(types: bool, one: bool) -> None:
    [found] = said("relative", types, one=one)
    assert (found.site, found.phase) == ("<data>", "data")
    assert ("`types`" if types else "`ids`") in found.message
    assert ("`end`" in found.message) is not one
    assert "begins at 4 to 9" in found.message


@pytest.mark.parametrize("one", [False, True])
@pytest.mark.parametrize("types", [False, True])
@pytest.mark.parametrize(
    "counted", ["inside", "none", "question or passage", "early", "both", "passage first"]
)
def test_places_of_the_row_are_well(counted: str, types: bool, one: bool) -> None:
    assert said(counted, types, one=one) == []


def test_scores_that_begin_at_the_passage_are_well() -> None:
    assert said("relative", moves=True) == []
