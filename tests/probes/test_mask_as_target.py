"""Where something is hidden, what hides it is not what is to be told."""

from __future__ import annotations

from collections.abc import Callable, Iterable

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
MASK = 1


class Reader(nn.Module):
    def __init__(self, classes: int = 20) -> None:
        super().__init__()
        self.words, self.sides = nn.Embedding(20, 16), nn.GRU(16, 8, bidirectional=True)
        self.head = nn.Linear(16, classes)

    def hidden(self, ids: Tensor) -> Tensor:
        read: Tensor = self.sides(self.words(ids).transpose(0, 1))[0].transpose(0, 1)
        return read

    def forward(self, ids: Tensor) -> Tensor:
        scores: Tensor = self.head(self.hidden(ids))
        return scores


class Fills(nn.Module):
    def __init__(self, size: float = 1.0) -> None:
        super().__init__()
        self.one, self.two, self.size = nn.Linear(9, 32), nn.Linear(32, 9), size

    def forward(self, x: Tensor) -> Tensor:
        filled: Tensor = self.size * (1 + self.two(self.one(x).tanh()))
        return filled


def texts() -> list[Batch]:
    seed_everything(0)
    ids = torch.randint(2, 20, (24, 15))
    return [{"ids": ids, "hidden": torch.rand(ids.shape) < 0.2}]


def numbers() -> list[Batch]:
    seed_everything(0)
    x = torch.randn(24, 9)
    return [{"x": x, "hidden": torch.rand(x.shape) < 0.3}]


def hidden_before(batches: list[Batch]) -> list[Batch]:
    for batch in batches:
        for key in {"ids", "x"} & set(batch):
            batch[key][batch["hidden"]] = MASK if key == "ids" else 0
    return batches


def said(batches: Iterable[Batch], loss: Loss, model: nn.Module | None = None) -> list[str]:
    made = model or (Reader() if "ids" in next(iter(batches)) else Fills())
    whole = Subject(made, batches, loss, lambda m: Adam(m.parameters()))
    return [f.verdict.value for f in check(whole, chosen(only=["LBL015"])).findings]


def scored(model: nn.Module, given: Tensor, batch: Batch, wanted: Tensor) -> Tensor:
    labels = wanted.masked_fill(~batch["hidden"], -100)
    return F.cross_entropy(model(given).flatten(0, 1), labels.flatten())


def own(model: nn.Module, batch: Batch) -> Tensor:
    batch["ids"][batch["hidden"]] = MASK
    return scored(model, batch["ids"], batch, batch["ids"])


def mixed(model: nn.Module, batch: Batch) -> Tensor:
    """As BERT's: a mask, another word, or the word itself."""
    ids, drawn = batch["ids"], torch.rand(batch["ids"].shape)
    ids[batch["hidden"] & (drawn < 0.8)] = MASK
    ids.copy_(torch.where(batch["hidden"] & (drawn > 0.9), (ids + 5) % 20, ids))
    return scored(model, ids, batch, batch["ids"])


def of_the_copy(model: nn.Module, batch: Batch) -> Tensor:
    ids = batch["ids"].masked_fill(batch["hidden"], MASK)
    return scored(model, ids, batch, ids)


def gathered(model: nn.Module, batch: Batch) -> Tensor:
    assert isinstance(model, Reader)
    batch["ids"][batch["hidden"]] = MASK
    picked = model.hidden(batch["ids"])[batch["hidden"]]
    return F.cross_entropy(model.head(picked), batch["ids"][batch["hidden"]])


def cloned(model: nn.Module, batch: Batch) -> Tensor:
    wanted = batch["ids"].clone()
    batch["ids"][batch["hidden"]] = MASK
    return scored(model, batch["ids"], batch, wanted)


def everywhere(model: nn.Module, batch: Batch) -> Tensor:
    """An autoencoder, which knows few words."""
    batch["ids"][batch["ids"] > 15] = MASK
    return F.cross_entropy(model(batch["ids"]).flatten(0, 1), batch["ids"].flatten())


def elsewhere(model: nn.Module, batch: Batch) -> Tensor:
    """What is missing is filled in, and asked for nowhere."""
    batch["ids"][batch["hidden"]] = MASK
    labels = batch["ids"].masked_fill(batch["hidden"], -100)
    return F.cross_entropy(model(batch["ids"]).flatten(0, 1), labels.flatten())


def as_it_is(model: nn.Module, batch: Batch) -> Tensor:
    return scored(model, batch["ids"], batch, batch["ids"])


def squared(model: nn.Module, batch: Batch) -> Tensor:
    batch["x"][batch["hidden"]] = 0
    return F.mse_loss(model(batch["x"])[batch["hidden"]], batch["x"][batch["hidden"]])


def absolute(model: nn.Module, batch: Batch) -> Tensor:
    batch["x"].masked_fill_(batch["hidden"], 0.0)
    far = (model(batch["x"]) - batch["x"]).abs() * batch["hidden"]
    return (far.sum(1) / batch["hidden"].sum(1).clamp(min=1)).mean()


def squared_of_whole(model: nn.Module, batch: Batch) -> Tensor:
    given = batch["x"].masked_fill(batch["hidden"], 0.0)
    return F.mse_loss(model(given)[batch["hidden"]], batch["x"][batch["hidden"]])


def absolute_of_whole(model: nn.Module, batch: Batch) -> Tensor:
    given = batch["x"].masked_fill(batch["hidden"], 0.0)
    return F.l1_loss(model(given)[batch["hidden"]], batch["x"][batch["hidden"]])


def same(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch["x"])[batch["hidden"]], batch["x"][batch["hidden"]])


@pytest.mark.parametrize("loss", [own, mixed, of_the_copy, gathered])
def test_words_that_are_asked_for_after_they_were_written_over_are_told(loss: Loss) -> None:
    assert said(texts(), loss) == ["fail"]


@pytest.mark.parametrize("loss", [squared, absolute])
def test_numbers_that_are_asked_for_after_they_were_written_over_are_told(loss: Loss) -> None:
    assert said(numbers(), loss) == ["fail"]


@pytest.mark.parametrize(("batches", "loss"), [(texts, as_it_is), (numbers, same)])
def test_data_that_are_written_over_before_they_are_copied_are_a_warning(
    batches: Callable[[], list[Batch]], loss: Loss
) -> None:
    assert said(hidden_before(batches()), loss) == ["warn"]
    assert said(batches(), loss) == []


@pytest.mark.parametrize("loss", [cloned, everywhere, elsewhere])
def test_words_that_are_asked_for_as_they_were_are_healthy(loss: Loss) -> None:
    assert said(texts(), loss) == []


@pytest.mark.parametrize("size", [1.0, 3000.0])
@pytest.mark.parametrize("loss", [squared_of_whole, absolute_of_whole])
def test_numbers_that_are_asked_for_as_they_were_are_healthy(loss: Loss, size: float) -> None:
    """However far the outputs are from all that could be asked for."""
    assert said(numbers(), loss, Fills(size)) == []


def test_labels_of_one_class_that_the_model_is_handed_but_does_not_read_are_healthy() -> None:
    class Tagger(Reader):
        def forward(self, ids: Tensor, labels: Tensor | None = None) -> Tensor:
            scores = super().forward(ids)
            if labels is None:
                return scores
            return F.cross_entropy(scores[labels >= 0], labels[labels >= 0])

    batches = texts()
    known = torch.where(batches[0]["hidden"], 1, -1)
    batches[0]["tags"] = torch.where(batches[0]["ids"] == 2, -100, known)
    whole = Subject(
        Tagger(5),
        batches,
        lambda model, batch: model(batch["ids"], batch["tags"]),
        lambda m: Adam(m.parameters()),
        predict=lambda model, batch: model(batch["ids"]),
    )
    assert list(check(whole, chosen(only=["LBL015"])).findings) == []
