"""Places that were counted without the start token, and what else may hit it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.reading.too_early import unlike

START, PAD, END, MARK = 0, 1, 2, 3
NAMES, WORDS, VOCABULARY = 4, 12, 40
N, BATCHES, LONGEST = 16, 20, 11
Read = Callable[[Tensor, Tensor], Tensor]


def at_place(hidden: Tensor, place: Tensor) -> Tensor:
    return hidden[torch.arange(len(hidden)), place]


def gathered(hidden: Tensor, place: Tensor) -> Tensor:
    return hidden.gather(1, place[:, None, None].expand(-1, 1, hidden.shape[-1])).squeeze(1)


def at_both(hidden: Tensor, place: Tensor) -> Tensor:
    return at_place(hidden, place[:, 0]) + 2 * at_place(hidden, place[:, 1])


class Mixed(nn.Module):
    """Rows by token. causal: of what stands before alone."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        return x + (x.cumsum(1) if self.causal else x.mean(1, keepdim=True))


class Net(nn.Module):
    def __init__(self, read: Read, causal: bool, right: bool) -> None:
        super().__init__()
        self.words, self.mixed = nn.Embedding(VOCABULARY, 8), Mixed(causal)
        self.head, self.read, self.right = nn.Linear(8, 4), read, right

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        hidden = self.mixed(self.words(batch["ids"]))
        found = self.read(hidden, batch["place"])
        if self.right:
            found = self.read(hidden, batch["right"]) - found
        scores: Tensor = self.head(found)
        return scores


def texts(end: bool = False, mark: bool = False) -> list[dict[str, Tensor]]:
    """One name among words, and `place` where it stands; padded as long as all, with a mask.

    end: a separator after the words. mark: a marker before the name, of which the place is.
    """
    chance, batches = torch.Generator().manual_seed(0), []
    for _ in range(BATCHES):
        rows, places, lasts, labels = [], [], [], []
        for _ in range(N):
            count = int(torch.randint(6, LONGEST - 1, (), generator=chance))
            words = torch.randint(WORDS, VOCABULARY, (count,), generator=chance).tolist()
            at = int(torch.randint(0, count, (), generator=chance))
            words[at] = int(torch.randint(NAMES, WORDS, (), generator=chance))
            labels.append(words[at] % 4)
            words = words[:at] + [MARK] * mark + words[at:]
            places.append(at + 1)
            lasts.append(min(count, at + 2))
            row = [START, *words, *[END] * end]
            rows.append(row + [PAD] * (LONGEST + 2 - len(row)))
        made = {"ids": rows, "place": places, "right": lasts, "labels": labels}
        batches.append({key: torch.tensor(each) for key, each in made.items()})
    return [batch | {"mask": batch["ids"] != PAD} for batch in batches]


def moved(batches: list[dict[str, Tensor]], by: int = -1) -> list[dict[str, Tensor]]:
    return [batch | {"place": batch["place"] + by} for batch in batches]


def said(
    batches: list[dict[str, Tensor]],
    read: Read = at_place,
    causal: bool = False,
    right: bool = False,
) -> list[Finding]:
    torch.manual_seed(0)
    subject = Subject(
        Net(read, causal, right),
        batches,
        lambda m, b: F.cross_entropy(m(b), b["labels"]),
        lambda m: torch.optim.Adam(m.parameters()),
    )
    judged = check(subject, chosen(["IDX024"]))
    assert not judged.not_judged
    return list(judged.findings)


def pairs() -> list[dict[str, Tensor]]:
    """Two names a row."""
    batches = texts()
    for batch in batches:
        lengths = batch["mask"].sum(1) - 1
        other = (batch["place"] + 2) % lengths + 1
        batch["ids"][torch.arange(N), other] = NAMES + batch["labels"]
        batch["place"] = torch.stack([batch["place"], other], 1)
    return batches


@pytest.mark.parametrize("read", [at_place, gathered])
@pytest.mark.parametrize("end", [False, True])
def test_places_of_words_are_told_where_a_start_token_stands_before_them(
    read: Read, end: bool
) -> None:
    (finding,) = said(moved(texts(end)), read)
    assert finding.verdict is Verdict.WARN
    assert "`place` lies one token before" in finding.message
    assert f"hit id {START}" in finding.message


def test_a_batch_without_a_mask_has_its_padding_told_by_the_ends_of_rows() -> None:
    batches = [{k: t for k, t in b.items() if k != "mask"} for b in moved(texts())]
    assert len(said(batches)) == 1


def test_code_that_adds_the_start_token_itself_is_healthy() -> None:
    assert not said(moved(texts()), lambda hidden, place: at_place(hidden, place + 1))


@pytest.mark.parametrize(("end", "mark"), [(False, False), (True, False), (True, True)])
def test_places_that_count_the_start_token_are_healthy(end: bool, mark: bool) -> None:
    assert not said(texts(end, mark))


@pytest.mark.parametrize("by", [0, -1])
def test_zero_for_no_answer_is_healthy(by: int) -> None:
    """Of answers, and of the places before them: what follows the start token is no answer."""
    batches = texts(end=True)
    for batch in batches:
        nothing = torch.rand(N, generator=torch.Generator().manual_seed(1)) < 0.3
        nothing |= batch["place"] == 1
        batch["place"] = torch.where(nothing, 0, batch["place"] + by)
    assert not said(batches)


def test_a_place_that_stands_for_what_follows_is_healthy_in_a_causal_model() -> None:
    assert not said(moved(texts()), causal=True)


def test_two_places_a_row_are_told_but_in_a_causal_model() -> None:
    assert len(said(moved(pairs()), at_both)) == 1
    assert not said(moved(pairs()), at_both, causal=True)
    assert not said(pairs(), at_both)


def test_the_border_before_a_span_is_healthy_where_its_last_token_is_read_too() -> None:
    assert not said(moved(texts()), right=True)


def test_places_drawn_by_chance_are_healthy() -> None:
    chance = torch.Generator().manual_seed(2)
    batches = texts()
    for batch in batches:
        lengths = batch["mask"].sum(1) - 1
        batch["place"] = (torch.rand(N, generator=chance) * lengths).long()
    assert not said(batches)


def test_ids_of_a_kind_are_unlike_the_others_and_ids_by_chance_are_not() -> None:
    chance = torch.Generator().manual_seed(3)
    one, two = (torch.randint(0, 20, (300,), generator=chance).tolist() for _ in range(2))
    assert unlike(Counter(one), Counter(two)) > 1e-3
    assert unlike(Counter(each // 2 for each in one), Counter(two)) < 1e-6
