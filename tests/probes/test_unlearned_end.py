"""Ends of rows that are left out with the padding, and what only looks so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Loss = Callable[["Writer", Batch], Tensor]
Make = Callable[[list[list[int]]], Batch]
KINDS, OPENS, TURN = 30, 28, 29


class Writer(nn.Module):
    """What comes next, of what was read so far; or, both ways, what stands there."""

    def __init__(self, both: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(KINDS, 16)
        self.rnn = nn.GRU(16, 16, batch_first=True, bidirectional=both)
        self.head = nn.Linear(32 if both else 16, KINDS)

    def forward(self, ids: Tensor) -> Tensor:
        scores: Tensor = self.head(self.rnn(self.embedding(ids))[0])
        return scores


def texts(batch: int) -> list[list[int]]:
    """Each counts on from somewhere; batches differ in how long the longest is."""
    return [[1 + (5 * row + k) % 27 for k in range(2 + row % (4 + batch))] for row in range(9)]


def padded(rows: list[list[int]], by: int = 0, more: int = 0) -> Tensor:
    width = max(map(len, rows)) + more
    return torch.tensor([row + [by] * (width - len(row)) for row in rows])


def kept(rows: list[list[int]]) -> Tensor:
    return padded([[1] * len(row) for row in rows])


def ended(rows: list[list[int]]) -> list[list[int]]:
    return [[*row, 0] for row in rows]


def by_id(rows: list[list[int]]) -> Batch:
    ids = padded(ended(rows))
    return {
        "ids": ids,
        "attention_mask": kept(ended(rows)),
        "labels": ids.masked_fill(ids == 0, -100),
    }


def on_the_left(rows: list[list[int]]) -> Batch:
    """With an end between texts as well."""
    rows = [[*row[:2], 0, *row[::-1], 0] for row in rows]
    ids, mask = padded([row[::-1] for row in rows]).flip(1), kept(rows).flip(1)
    return {"ids": ids, "attention_mask": mask, "labels": ids.masked_fill(ids == 0, -100)}


def by_mask(rows: list[list[int]]) -> Batch:
    ids, mask = padded(ended(rows)), kept(ended(rows))
    return {"ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def without_end(rows: list[list[int]]) -> Batch:
    ids = padded(rows)
    return {"ids": ids, "attention_mask": kept(rows), "labels": ids.masked_fill(ids == 0, -100)}


def turns(rows: list[list[int]]) -> Batch:
    """A turn ends before the text does, by an id of its own, which is scored."""
    return by_id([[*row, TURN] for row in rows])


def one_word(rows: list[list[int]]) -> Batch:
    """The answer is one word, behind a question of any length."""
    batch = by_id([[*row, row[0]] for row in rows])
    last = batch["attention_mask"].sum(1) - 2
    answer = torch.arange(batch["ids"].shape[1]) == last[:, None]
    return batch | {"labels": batch["ids"].masked_fill(~answer, -100)}


def between(rows: list[list[int]]) -> Batch:
    """Texts in a row: ends between them are scored, and nothing comes after the last."""
    batch = by_mask([[*row, 0, *row] for row in rows])
    last = torch.arange(batch["ids"].shape[1]) == batch["attention_mask"].sum(1)[:, None] - 1
    return batch | {"labels": batch["labels"].masked_fill(last, -100)}


def counted(rows: list[list[int]]) -> Batch:
    lengths = torch.tensor([len(row) + 1 for row in rows])
    return {"0": padded(rows, more=6), "1": lengths}


def alone(rows: list[list[int]]) -> Batch:
    return {"ids": padded(ended(rows))}


def wide(rows: list[list[int]]) -> Batch:
    """All batches are as wide as no row is long, by one."""
    return {"ids": padded([*texts(0), [1] * len(max(texts(0), key=len))], more=1)}


def wider(rows: list[list[int]]) -> Batch:
    """Each batch is wider by two than its longest row."""
    return {"ids": padded(rows, more=2)}


def fed(rows: list[list[int]]) -> Batch:
    """What the model is fed has no end, or is cut before it."""
    opened = [[OPENS, *row] for row in rows]
    return {"fed": padded(opened), "attention_mask": kept(opened), "wanted": padded(ended(rows))}


def fed_aside(rows: list[list[int]]) -> Batch:
    opened = [[OPENS, *row] for row in rows]
    return {"fed": padded(opened), "labels": padded([[*row, -100] for row in rows], -100)}


def labels_alone(rows: list[list[int]]) -> Batch:
    return {"labels": padded([[*row, -100] for row in rows], -100)}


def labels_to_the_end(rows: list[list[int]]) -> Batch:
    return {"labels": padded(rows, -100)}


def guessed_words(rows: list[list[int]]) -> Batch:
    """Every third word is hidden and asked for, and no end."""
    batch = by_mask([[OPENS, *row] for row in rows])
    ids = batch["ids"]
    hit = (ids % 3 == 1) & (ids != OPENS)
    return batch | {"ids": ids.masked_fill(hit, TURN), "labels": ids.masked_fill(~hit, -100)}


def shifting(model: Writer, b: Batch) -> Tensor:
    return F.cross_entropy(model(b["ids"])[:, :-1].flatten(0, 1), b["labels"][:, 1:].flatten())


def in_loss(model: Writer, b: Batch) -> Tensor:
    """Labels and what counts of them are made here, by their id."""
    wanted = torch.cat([b["0"][:, 1:], torch.zeros_like(b["0"][:, :1])], 1)
    each = -model(b["0"]).log_softmax(-1).gather(-1, wanted[..., None]).squeeze(-1)
    return (each * (wanted != 0)).sum() / (wanted != 0).sum()


def by_length(model: Writer, b: Batch) -> Tensor:
    wanted = torch.cat([b["0"][:, 1:], torch.zeros_like(b["0"][:, :1])], 1)
    keep = torch.arange(wanted.shape[1]) < b["1"][:, None] - 1
    return F.cross_entropy(model(b["0"])[keep], wanted[keep])


def ignoring(model: Writer, b: Batch) -> Tensor:
    scores = model(b["ids"][:, :-1]).transpose(1, 2)
    return F.cross_entropy(scores, b["ids"][:, 1:], ignore_index=0)


def as_fed(model: Writer, b: Batch) -> Tensor:
    scores = model(b["fed"]).flatten(0, 1)
    wanted = b["wanted"].flatten() if "wanted" in b else b["labels"].flatten()
    return F.cross_entropy(scores, wanted.masked_fill(wanted == 0, -100))


def moved_inside(model: Writer, b: Batch) -> Tensor:
    start = torch.full_like(b["labels"][:, :1], OPENS)
    before = torch.cat([start, b["labels"].clamp(min=0)], 1)[:, :-1]
    return F.cross_entropy(model(before).flatten(0, 1), b["labels"].flatten())


def in_place(model: Writer, b: Batch) -> Tensor:
    return F.cross_entropy(model(b["ids"]).flatten(0, 1), b["labels"].flatten())


def said(make: Make, loss: Loss, both: bool = False, **held: object) -> list[Finding]:
    """held: what is an attribute of the model."""
    seed_everything(0)
    model = Writer(both)
    for name, value in held.items():
        setattr(model, name, value)
    batches = [make(texts(batch)) for batch in range(4)]
    subject = Subject(model, batches, loss, lambda m: torch.optim.Adam(m.parameters()))
    return list(check(subject, chosen(["LBL017"])).findings)


@pytest.mark.parametrize(
    ("make", "loss", "end", "words"),
    [
        (by_id, shifting, None, "`ids` ends in 0, where `attention_mask` keeps it, and is padded"),
        (by_id, shifting, None, "left out in `labels`"),
        (on_the_left, shifting, None, "`ids` ends in 0, where `attention_mask` keeps it"),
        (counted, in_loss, None, "`0` ends in 0, where `1` keeps it"),
        (alone, ignoring, 0, "`ids` ends in 0, and is padded with 0 as well"),
        (fed, as_fed, 0, "`wanted` ends in 0, where `attention_mask` keeps it"),
        (labels_alone, moved_inside, 29, "every row of `labels` ends in -100"),
    ],
)
def test_an_end_that_is_never_asked_for_is_told(
    make: Make, loss: Loss, end: int | None, words: str
) -> None:
    [found] = said(make, loss, eos_token_id=end)
    assert words in found.message
    assert found.verdict is Verdict.WARN
    assert found.site == ("<data>" if "labels" in make(texts(0)) else "<loss>")


def test_what_may_be_padding_and_no_end_is_a_note() -> None:
    [found] = said(alone, ignoring, pad=0, words={"<s>": 0, "stop": 1})
    assert found.verdict is Verdict.NOTE
    assert "If it is an end" in found.fix


@pytest.mark.parametrize(
    "held",
    [{"stop_id": 0}, {"words": ["[EOS]", "a", "b"]}, {"ids": {"</s>": 0}}, {"words": {0: "<end>"}}],
)
def test_the_code_says_what_it_calls_an_end(held: dict[str, object]) -> None:
    [found] = said(alone, ignoring, **held)
    assert found.verdict is Verdict.WARN


@pytest.mark.parametrize(
    ("make", "loss"),
    [
        (by_mask, shifting),
        (without_end, shifting),
        (turns, shifting),
        (one_word, shifting),
        (between, shifting),
        (counted, by_length),
        (wide, ignoring),
        (wider, ignoring),
        (fed, as_fed),
        (fed_aside, as_fed),
        (labels_to_the_end, moved_inside),
    ],
)
def test_an_end_that_is_asked_for_or_not_there_is_well(make: Make, loss: Loss) -> None:
    assert said(make, loss) == []


def test_a_model_that_fills_in_words_need_not_stop() -> None:
    assert said(guessed_words, in_place, both=True) == []
