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


@pytest.mark.parametrize("twice", [True, False])
def test_the_last_label_of_a_padded_row_may_go_beyond_its_ids(twice: bool) -> None:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        scores, wanted = model(batch["clicks"])[0], batch["next"]
        if twice:
            scores, wanted = scores[:, :-1], wanted[:, 1:]
        return F.cross_entropy(scores.flatten(0, 1), wanted.flatten(), ignore_index=0)

    seed_everything(0)
    walk = torch.randint(1, 30, (9, 13))
    there = torch.arange(12) < torch.tensor([12, 5, 6, 8, 9, 7, 10, 11, 5])[:, None]
    batch = {"clicks": walk[:, :-1] * there, "next": walk[:, 1:] * there}
    said = found("LBL001", Ahead(), [batch], loss)
    assert len(said) == twice


class Writer(nn.Module):
    """Next ids; some are never to be written."""

    def __init__(self, hide: Callable[[Tensor, Tensor], Tensor], never: list[int]) -> None:
        super().__init__()
        self.items, self.out = nn.Embedding(12, 16), nn.Linear(16, 12)
        self.hide = hide
        self.register_buffer("never", torch.isin(torch.arange(12), torch.tensor(never)))

    def forward(self, ids: Tensor) -> Tensor:
        return self.hide(self.out(self.items(ids)), self.get_buffer("never"))


def small(scores: Tensor, never: Tensor) -> Tensor:
    return scores.masked_fill(never, -30.0)


def large(scores: Tensor, never: Tensor) -> Tensor:
    return scores - 1e4 * never


def chosen_by(weight: float = 1.0, smoothing: float = 0.0) -> Loss:
    """Of the ids behind each id: the loss's labels are cut out of what the model reads."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        scores = model(batch["text"][:, :-1]).flatten(0, 1)
        weights = torch.ones(12).index_fill(0, torch.tensor([1, 2]), weight)
        wanted = batch["text"][:, 1:].flatten()
        return F.cross_entropy(
            scores, wanted, weight=weights, ignore_index=0, label_smoothing=smoothing
        )

    return loss


def sampled_classes(model: nn.Module, batch: Batch) -> Tensor:
    """The gold stands first; others that are the gold by accident are hidden."""
    scores = model(batch["text"][:, :-1]).flatten(0, 1)
    wanted = batch["text"][:, 1:].reshape(-1, 1)
    drawn = torch.arange(3, 9).expand(len(wanted), -1)
    far = scores.gather(1, drawn).masked_fill(drawn == wanted, -1e9)
    both = torch.cat([scores.gather(1, wanted), far], 1)
    return F.cross_entropy(both, torch.zeros(len(wanted), dtype=torch.long))


def only_what_follows(scores: Tensor, _: Tensor) -> Tensor:
    """A grammar: 2 ends a text, and is hidden where ids of odd places are to come."""
    odd = torch.arange(scores.shape[1])[:, None] % 2 == 0
    return scores.masked_fill(odd & (torch.arange(12) == 2), -1e9)


@pytest.mark.parametrize(
    ("hide", "never", "loss", "told"),
    [
        (small, [0, 2], chosen_by(), True),
        (large, [2], chosen_by(), True),
        (small, [0, 1], chosen_by(), False),
        (small, [2], chosen_by(weight=0.0), False),
        (small, [0, 1], chosen_by(smoothing=0.1), False),
        (only_what_follows, [], chosen_by(), False),
        (small, [1], sampled_classes, False),
    ],
)
def test_a_class_that_is_wanted_and_masked_away_is_told_without_a_key_of_labels(
    hide: Callable[[Tensor, Tensor], Tensor], never: list[int], loss: Loss, told: bool
) -> None:
    seed_everything(0)
    text = torch.randint(3, 12, (9, 7))
    text[:, 0], text[:, -1] = 1, 2
    said = found("IDX003", Writer(hide, never), [{"text": text}], loss)
    assert ["are class 2, masked away" in each.message for each in said] == [True] * told
