"""What labels are asked of: the outputs that they are scored against, and no others."""

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


def found(
    code: str,
    model: nn.Module,
    batches: list[Batch],
    loss: Loss,
    predict: Loss | None = None,
) -> list[Finding]:
    seed_everything(0)
    subject = Subject(model, batches, loss, lambda m: torch.optim.Adam(m.parameters()), predict)
    return list(check(subject, chosen([code])).findings)


class TwoHeads(nn.Module):
    """Scores of 3 classes and of 5."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 12)
        self.few, self.many = nn.Linear(12, 3), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x).relu()
        return self.few(h), self.many(h)


def both(model: nn.Module, batch: Batch) -> Tensor:
    few, many = model(batch["x"])
    return F.cross_entropy(few, batch["kind"]) + F.cross_entropy(many, batch["speaker"])


def policy(model: nn.Module, batch: Batch) -> Tensor:
    few, many = model(batch["x"])
    told = many.log_softmax(1).gather(1, batch["speaker"][:, None])
    return F.cross_entropy(few, batch["kind"]) - told.mean()


def left_out(model: nn.Module, batch: Batch) -> Tensor:
    """The labels beyond the scores are silently ignored."""
    few, labels = model(batch["x"])[0], batch["speaker"]
    return F.cross_entropy(few, labels.masked_fill(labels > 2, -100))


def by_hand(model: nn.Module, batch: Batch) -> Tensor:
    few = model(batch["x"])[0].log_softmax(1)
    return -(few * (batch["speaker"][:, None] == torch.arange(3))).sum(1).mean()


@pytest.mark.parametrize(
    ("loss", "told"), [(both, False), (policy, False), (left_out, True), (by_hand, True)]
)
def test_a_label_is_beyond_the_output_that_it_is_scored_against(loss: Loss, told: bool) -> None:
    kind, speaker = torch.arange(9) % 3, torch.arange(9) % 5
    batch = {"x": torch.randn(9, 6), "kind": kind, "speaker": speaker}
    seed_everything(0)
    said = found("IDX003", TwoHeads(), [batch], loss, lambda m, b: m(b["x"])[0])
    words = "labels in `speaker` are 3 or more, and `output` has outputs 0 to 2"
    assert [words in one.message for one in said] == ([True] if told else [])


class Recommender(nn.Module):
    """A vector for every item so far, which is to lie near the next item's."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(60, 16)
        self.body, self.norm = nn.GRU(16, 16, batch_first=True), nn.LayerNorm(16)

    def forward(self, ids: Tensor) -> Tensor:
        hidden: Tensor = self.norm(self.body(self.items(ids))[0])
        return hidden


def sampled(model: Recommender, batch: Batch) -> Tensor:
    hidden = model(batch["ids"])
    near = (hidden * model.items(batch["next"])).sum(-1)
    far = (hidden * model.items(batch["other"])).sum(-1)
    return F.softplus(-near).mean() + F.softplus(far).mean()


def test_ids_whose_vectors_are_looked_up_are_no_classes_of_the_vectors() -> None:
    seed_everything(0)
    walk, other = torch.randint(60, (9, 11)), torch.randint(60, (9, 10))
    batch = {"ids": walk[:, :-1], "next": walk[:, 1:], "other": other}
    assert found("IDX003", Recommender(), [batch], sampled) == []  # type: ignore[arg-type]


def heard(frames: int = 12, lenient: bool = False, turned: bool = False, given: int = 0) -> Loss:
    """CTC over so many frames. given: as many letters are said to be in each target."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        scores = model(batch["sound"][:, :frames]).log_softmax(-1)
        n, letters = len(scores), batch["letters"]
        counted = torch.full_like(letters, given) if given else letters
        scores = scores if turned else scores.transpose(0, 1)
        steps = torch.full((n,), frames)
        return F.ctc_loss(scores, batch["text"], steps, counted, zero_infinity=lenient)

    return loss


@pytest.mark.parametrize(
    ("loss", "words", "fix"),
    [
        (heard(), None, None),
        (heard(given=4), "of 28 letters in the targets are the blank", "count no padding"),
        (heard(frames=2), "targets have no alignment", "thin the frames out less"),
        (heard(frames=2, lenient=True), "targets have no alignment", "thin the frames out less"),
        (heard(frames=4, lenient=True), None, None),
        (heard(frames=9), None, None),
        (heard(frames=9, turned=True), "takes the first axis for time", "transpose(0, 1)"),
    ],
)
def test_the_loss_of_ctc_is_given_what_it_can_align(
    loss: Loss, words: str | None, fix: str | None
) -> None:
    seed_everything(0)
    letters = torch.tensor([2, 3, 2, 3, 3, 2, 4, 3, 2])
    text = (torch.arange(9)[:, None] + torch.arange(4)) % 5 + 1
    text[6] = torch.tensor([1, 1, 2, 2])  # needs six frames
    text = text.where(torch.arange(4) < letters[:, None], 0)
    batch = {"sound": torch.randn(9, 12, 6), "text": text, "letters": letters}
    model = nn.Linear(6, 6)
    said = found("LBL009", model, [batch], loss)
    assert [words in one.message and (fix or "") in one.fix for one in said if words] == (
        [True] if words else []
    )
    assert bool(said) == bool(words)


class Ahead(nn.Module):
    """Scores of the ids to come, by two heads over what was read so far."""

    def __init__(self) -> None:
        super().__init__()
        self.items, self.body = nn.Embedding(30, 16), nn.GRU(16, 16, batch_first=True)
        self.near, self.far = nn.Linear(16, 30), nn.Linear(16, 30)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(self.items(ids))[0]
        return self.near(hidden), self.far(hidden)


def next_by(near: int, far: int = 0, cut: bool = True) -> Loss:
    """The heads are asked for the ids so many places on, or are not. cut: before the model."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        walk = batch["walk"]
        found = model(walk[:, :-1] if cut else walk)
        total = walk.new_zeros((), dtype=torch.float32)
        for scores, by in zip(found, (near, far), strict=True):
            if by:
                gold = walk.roll(-by, 1)
                gold[:, slice(-by, None) if by > 0 else slice(-by)] = -100
                gold = gold[:, : scores.shape[1]]
                total = total + F.cross_entropy(scores.flatten(0, 1), gold.flatten())
        return total

    return loss


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (next_by(2), 1),
        (next_by(2, cut=False), 1),
        (next_by(3), 1),
        (next_by(1), 0),
        (next_by(1, cut=False), 0),
        (next_by(1, far=2), 0),  # one of the heads is asked for the next
        (next_by(-2, cut=False), 0),  # to recall is the task
    ],
)
def test_an_id_that_no_output_is_asked_for_is_told(loss: Loss, told: int) -> None:
    seed_everything(0)
    batch = {"walk": torch.randint(30, (9, 12))}
    said = found("LBL001", Ahead(), [batch], loss)
    assert ["after the last one that it has read" in one.message for one in said] == [True] * told


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
