"""Where labels stand: beside whose rows, tokens, cells and groups."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]


def found(code: str, model: nn.Module, batches: list[Batch], loss: Loss) -> list[Finding]:
    seed_everything(0)
    subject = Subject(model, batches, loss, lambda m: torch.optim.Adam(m.parameters()))
    return list(check(subject, chosen([code])).findings)


class Towers(nn.Module):
    """Questions on one side, passages on the other."""

    def __init__(self) -> None:
        super().__init__()
        self.question, self.passage = nn.Linear(6, 8), nn.Linear(6, 8)

    def forward(self, question: Tensor, passages: Tensor) -> Tensor:
        return 4 * self.question(question) @ self.passage(passages.flatten(0, 1)).T


def pairs(by: int, start: int = 0, backward: bool = False) -> Loss:
    """Question i is to find passage i * by + start. backward: passages are to find questions."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        scores = model(batch["question"], batch["passages"])
        goal = torch.arange(len(scores)) * by + start
        if backward:
            return F.cross_entropy(scores.T, torch.arange(scores.shape[1]) // by)
        return F.cross_entropy(scores, goal % scores.shape[1])

    return loss


def onwards(model: nn.Module, batch: Batch) -> Tensor:
    """Each sample is to find the next one of a stream."""
    z = model.question(batch["question"])  # type: ignore[operator]
    z = z + 0 * model.passage(batch["passages"]).sum()  # type: ignore[operator]
    scores = z @ z.roll(-1, 0).T
    return F.cross_entropy(scores[:, :], torch.arange(len(scores)))


def queued(model: nn.Module, batch: Batch) -> Tensor:
    """The first column is each row's own, the others come from a queue."""
    q, p = model.question(batch["question"]), model.passage(batch["passages"])[:, 0]  # type: ignore[operator]
    others = torch.ones(5, 8).cumsum(0).sin()
    scores = torch.cat([(q * p).sum(1, keepdim=True), q @ others.T], 1)
    return F.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long))


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (pairs(1), 1),
        (pairs(3), 0),
        (pairs(3, start=1), 0),
        (pairs(3, start=3), 1),
        (pairs(3, backward=True), 0),
        (onwards, 0),
        (queued, 0),
    ],
)
def test_a_row_of_pairs_asks_for_a_column_of_its_own_sample(loss: Loss, told: int) -> None:
    seed_everything(0)
    batch = {"question": torch.randn(9, 6), "passages": torch.randn(9, 3, 6)}
    said = found("IDX002", Towers(), [batch], loss)
    assert ["another sample's column" in one.message for one in said] == [True] * told


class Packed(nn.Module):
    """Pictures on one side; on the other titles of ids, sorted by length to be packed."""

    def __init__(self, back: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8, padding_idx=0)
        self.gru, self.picture = nn.GRU(8, 8, batch_first=True), nn.Linear(6, 8)
        self.back = back

    def forward(self, picture: Tensor, title: Tensor) -> Tensor:
        n = (title != 0).sum(1)
        order = n.argsort(descending=True, stable=True)
        packed = nn.utils.rnn.pack_padded_sequence(
            self.words(title[order]), n[order], batch_first=True
        )
        last = self.gru(packed)[1][-1]
        found: Tensor = self.picture(picture) @ last[order.argsort() if self.back else ...].T
        return found


@pytest.mark.parametrize(("back", "told"), [(False, 1), (True, 0)])
def test_a_side_that_was_sorted_to_be_packed_is_put_back(back: bool, told: int) -> None:
    seed_everything(0)
    title = torch.randint(1, 20, (9, 6))
    title[torch.arange(6) >= torch.tensor([3, 6, 2, 5, 4, 6, 2, 3, 5])[:, None]] = 0
    batch = {"picture": torch.randn(9, 6), "title": title}

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        scores = model(batch["picture"], batch["title"])
        own = torch.arange(len(scores))
        return F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)

    said = found("IDX002", Packed(back), [batch], loss)
    assert ["another sample's column" in one.message for one in said] == [True] * told


class Segments(nn.Module):
    """Scores of four kinds for every cell of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.body(image)
        return scores


def overlap(lay: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    """Dice of the kinds. lay: brings (sample, row, column, kind) into the order of the scores."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        shares = model(batch["image"]).softmax(1)
        wanted = lay(F.one_hot(batch["kinds"], 4), shares).float()
        shares = shares.reshape(wanted.shape)
        both = (shares * wanted).flatten(2).sum(-1)
        return 1 - (2 * both / (shares + wanted).flatten(2).sum(-1)).mean()

    return loss


@pytest.mark.parametrize(
    ("lay", "told"),
    [
        (lambda one, shares: one.view(shares.shape), 1),
        (lambda one, shares: one.float().reshape_as(shares), 1),
        (lambda one, shares: one.flatten(1, 2).view(len(one), 4, -1), 1),
        (lambda one, shares: one.permute(0, 3, 1, 2), 0),
        (lambda one, shares: one.flatten(1, 2).mT.reshape(shares.shape), 0),
        (lambda one, shares: one.reshape(len(one), -1, 4).mT, 0),
    ],
)
def test_classes_of_a_one_hot_are_moved_by_a_transpose(
    lay: Callable[[Tensor, Tensor], Tensor], told: int
) -> None:
    seed_everything(0)
    batch = {"image": torch.randn(9, 1, 6, 8), "kinds": torch.randint(4, (9, 6, 8))}
    said = found("IDX005", Segments(), [batch], overlap(lay))
    assert [one.source is not None for one in said] == [True] * told


class Reader(nn.Module):
    """Tags by what stands on both sides, or before alone."""

    def __init__(self, both: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(40, 16)
        self.body = nn.GRU(16, 16, batch_first=True, bidirectional=both)
        self.tags = nn.Linear(32 if both else 16, 40)

    def forward(self, ids: Tensor) -> Tensor:
        tags: Tensor = self.tags(self.body(self.words(ids))[0])
        return tags


def tagged(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch["ids"]).flatten(0, 1), batch["tags"].flatten())


def shifted(model: nn.Module, batch: Batch) -> Tensor:
    """The output at p is scored against the label at p - 1."""
    scores = model(batch["ids"])[:, 1:].flatten(0, 1)
    return F.cross_entropy(scores, batch["tags"][:, :-1].flatten())


def placed(words: Tensor, by: int, kinds: Tensor) -> Batch:
    """Words between a start and an end, and their kinds so many places from where they stand."""
    edge = torch.ones(len(words), 1, dtype=torch.long)
    ids = torch.cat([edge, words, 2 * edge, 0 * edge, 0 * edge], 1)
    tags = torch.full_like(ids, -100)
    tags[:, 1 + by : 1 + by + words.shape[1]] = kinds
    return {"ids": ids, "tags": tags}


@pytest.mark.parametrize(
    ("by", "like", "both", "loss", "told"),
    [
        (-1, "own", True, tagged, 1),
        (1, "own", True, tagged, 1),
        (2, "own", True, tagged, 1),
        (0, "own", True, tagged, 0),
        (-1, "own", True, shifted, 0),  # the loss shifts them back
        (-1, "own", False, tagged, 0),  # the next one's tag is to be guessed
        (0, "next", True, tagged, 0),  # a tag hangs on the next word alone
        (0, "pair", True, tagged, 0),
        (0, "masked", True, tagged, 0),
    ],
)
def test_labels_that_stand_beside_their_tokens_are_told(
    by: int, like: str, both: bool, loss: Loss, told: int
) -> None:
    seed_everything(0)
    words = torch.randint(3, 20, (40, 7))
    kinds = {
        "own": words % 3,
        "next": (words % 3).roll(-1, 1),
        "pair": (words + words.roll(-1, 1)) % 3,
        "masked": words,
    }[like]
    if like == "masked":
        hidden = torch.rand(words.shape).argsort(1) == 0
        words, kinds = words.masked_fill(hidden, 39), kinds.masked_fill(~hidden, -100)
    said = found("LBL010", Reader(both), [placed(words, by, kinds)], loss)
    assert ["stands beside the tokens" in one.message for one in said] == [True] * told


class Heat(nn.Module):
    """A score for every cell of a map, laid out flat."""

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.body = nn.Linear(6, cells)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.body(x)
        return scores


def at_cell(stride: int, by: int = 1, picked: bool = False) -> Loss:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        cell = batch["at"][:, 1] * stride + batch["at"][:, 0] * by
        scores = model(batch["x"])
        if picked:
            return -scores.log_softmax(1)[torch.arange(len(cell)), cell].mean()
        return F.cross_entropy(scores, cell)

    return loss


@pytest.mark.parametrize(
    ("loss", "cells", "told"),
    [
        (at_cell(5), 40, 1),
        (at_cell(5, picked=True), 40, 1),
        (at_cell(8), 40, 0),
        (at_cell(9), 45, 0),
        (at_cell(1, by=5), 40, 0),
        (at_cell(5), 32, 0),  # there is no room for all: they are to share
    ],
)
def test_two_places_have_a_class_each(loss: Loss, cells: int, told: int) -> None:
    seed_everything(0)
    places = torch.stack([torch.arange(40) % 8, torch.arange(40) // 8], 1)
    batch = {"x": torch.randn(40, 6), "at": places[torch.randperm(40)]}
    said = found("IDX009", Heat(cells), [batch], loss)
    assert ["places share a class" in one.message for one in said] == [True] * told


def centred(groups: Callable[[Tensor], Tensor], lay: Callable[[Tensor], Tensor]) -> Loss:
    """Rewards less a number of their group. groups: (group, row); lay: a number for each row."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        reward = batch["reward"]
        means = lay(groups(reward).mean(1))
        scores = model(batch["answer"])[:, 0] + 0 * batch["question"].sum()
        return F.mse_loss(scores, reward - means)

    return loss


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (centred(lambda r: r.view(6, 4), lambda m: m.repeat(4)), 1),
        (centred(lambda r: r.view(6, 4), lambda m: 1.5 * m.tile(4)), 1),
        (centred(lambda r: r.view(6, 4), lambda m: m.repeat_interleave(4)), 0),
        (centred(lambda r: r.view(4, 6).T, lambda m: m.repeat(4)), 0),  # in turn, as they stand
        (centred(lambda r: r.view(6, 4), lambda m: m.repeat(4).view(4, 6).T.flatten()), 0),
    ],
)
def test_a_groups_number_meets_its_own_rows(loss: Loss, told: int) -> None:
    seed_everything(0)
    batch = {
        "question": torch.randn(6, 1),
        "answer": torch.randn(24, 5),
        "reward": torch.randn(24),
    }
    said = found("IDX010", nn.Linear(5, 1), [batch], loss)
    assert ["number meets rows of other groups" in one.message for one in said] == [True] * told
