"""What fills in masked ids is not scored where nothing is masked."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from probes import Subject
from probes.checking import check, chosen
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]
WORDS, MASK = 20, 20


class Reader(nn.Module):
    """It has a row for the mask, and no class."""

    def __init__(self, summed_up: bool = False) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS + 1, 16), nn.Embedding(15, 16)
        self.sides = nn.GRU(16, 8, bidirectional=True, batch_first=True)
        self.head, self.summed_up = nn.Linear(16, WORDS), summed_up

    def forward(self, ids: Tensor) -> Tensor:
        read = self.sides(self.words(ids))[0]
        if self.summed_up:
            read = (read.mean(1, keepdim=True) + self.places.weight).tanh()
        scores: Tensor = self.head(read)
        return scores


class Decoder(nn.Module):
    """It reads all of the ids, and each of its own before."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS + 1, 16)
        self.sides, self.own = nn.GRU(16, 16, batch_first=True), nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, WORDS)

    def forward(self, ids: Tensor, fed: Tensor) -> Tensor:
        read = self.sides(self.words(ids))[0]
        return self.head(self.own(self.words(fed))[0] + read + self.words(ids))  # type: ignore[no-any-return]


def batches(how: str = "all") -> list[Batch]:
    seed_everything(0)
    whole = torch.randint(0, WORDS, (24, 15))
    rate = torch.linspace(0, 0.9, 24)[:, None] if how == "every rate" else torch.tensor(0.25)
    hidden = torch.rand(whole.shape) < rate
    ids, labels = whole.masked_fill(hidden, MASK), whole.clone()
    if how == "masked alone":
        labels[~hidden] = -100
    if how == "80/10/10":
        drawn = torch.rand(whole.shape)
        ids = torch.where(hidden & (drawn < 0.2), torch.randint(0, WORDS, whole.shape), ids)
        ids = torch.where(hidden & (drawn < 0.1), whole, ids)
        labels[~hidden] = -100
    if how == "tags":
        labels = (7 * whole + 3) % WORDS
    return [{"ids": ids, "wanted": labels}]


def of_all(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch["ids"]).flatten(0, 1), batch["wanted"].flatten())


def classes_first(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch["ids"]).movedim(-1, 1), batch["wanted"])


def hidden_within(model: nn.Module, batch: Batch) -> Tensor:
    ids = batch["wanted"].masked_fill(torch.rand(batch["wanted"].shape) < 0.25, MASK)
    return F.cross_entropy(model(ids).flatten(0, 1), batch["wanted"].flatten())


def lighter(model: nn.Module, batch: Batch) -> Tensor:
    scores, labels = model(batch["ids"]).flatten(0, 1), batch["wanted"].flatten()
    weight = torch.where(batch["ids"].flatten() == MASK, 1.0, 0.1)
    return (weight * F.cross_entropy(scores, labels, reduction="none")).mean()


def shifted(model: nn.Module, batch: Batch) -> Tensor:
    fed = F.pad(batch["wanted"][:, :-1], (1, 0), value=MASK)
    return F.cross_entropy(model(batch["ids"], fed).flatten(0, 1), batch["wanted"].flatten())


def said(given: list[Batch], loss: Loss, model: nn.Module) -> list[str]:
    key = "ids" if "ids" in given[0] else "wanted"
    subject = Subject(
        model,
        given,
        loss,
        lambda m: Adam(m.parameters()),
        predict=lambda m, b: m(b[key]),
    )
    return [f.message for f in check(subject, chosen(only=["LBL007"])).findings]


@pytest.mark.parametrize("loss", [of_all, classes_first])
def test_labels_of_all_beside_a_mark_that_is_no_class(loss: Loss) -> None:
    (message,) = said(batches(), loss, Reader())
    assert "77%" in message
    assert "by the id 20" in message


def test_ids_that_are_masked_within_the_loss() -> None:
    (message,) = said([{"wanted": batches()[0]["wanted"]}], hidden_within, Reader())
    assert "by the id 20" in message


@pytest.mark.parametrize("how", ["masked alone", "80/10/10", "every rate", "tags"])
def test_healthy_labels(how: str) -> None:
    assert said(batches(how), of_all, Reader()) == []


def test_what_weighs_less_on_purpose_is_healthy() -> None:
    assert said(batches(), lighter, Reader()) == []


def test_what_is_told_of_one_vector_is_healthy() -> None:
    assert said(batches(), of_all, Reader(summed_up=True)) == []


def test_a_decoder_that_is_fed_what_it_is_asked_for_a_place_later_is_healthy() -> None:
    def fed(batch: Batch) -> Tensor:
        return F.pad(batch["wanted"][:, :-1], (1, 0), value=MASK)

    subject = Subject(
        Decoder(),
        batches(),
        shifted,
        lambda m: Adam(m.parameters()),
        predict=lambda m, b: m(b["ids"], fed(b)),
    )
    assert check(subject, chosen(only=["LBL007"])).findings == ()
