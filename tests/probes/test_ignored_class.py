"""A class that padding shares: told apart from places where there is nothing to tell."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.scoring.class_names import class_names, name_of
from probes.seeding import seed_everything

Batch = dict[str, Tensor]


class Tagger(nn.Module):
    """Gives every token one of some tags, whatever they are called."""

    def __init__(self, tags: object, count: int) -> None:
        super().__init__()
        self.tags = tags
        self.words, self.head = nn.Embedding(50, 24, padding_idx=0), nn.Linear(24, count)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        scores: Tensor = self.head(self.words(ids) * mask[..., None])
        return scores


def texts(pad: int, masked: bool = False) -> list[Batch]:
    """Most words have tag 0, and so have all ids without one, if `masked`."""
    chance = torch.Generator().manual_seed(0)
    long = torch.randint(6, 13, (16, 1), generator=chance)
    mask = (torch.arange(12) < long).long()
    ids = torch.randint(1, 50, (16, 12), generator=chance) * mask
    rare = (ids % 4).masked_fill(torch.rand(16, 12, generator=chance) < 0.6, 0)
    tags = ids.masked_fill(ids % 3 > 0, 0) if masked else rare
    return [{"ids": ids, "mask": mask, "tags": tags.masked_fill(mask == 0, pad)}]


def by_index(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch["ids"], batch["mask"]).mT, batch["tags"], ignore_index=0)


def by_weight(model: nn.Module, batch: Batch) -> Tensor:
    scores, real = model(batch["ids"], batch["mask"]), batch["tags"] != 0
    return F.cross_entropy(scores[real], batch["tags"][real])


def by_padding(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch["ids"], batch["mask"]).mT, batch["tags"])


def subject(
    tags: object,
    loss: Callable[[nn.Module, Batch], Tensor] = by_index,
    pad: int = 0,
    masked: bool = False,
) -> Subject:
    seed_everything(0)
    model = Tagger(tags, 50 if masked else 4)
    adam = torch.optim.Adam
    return Subject(model, texts(pad, masked), loss, lambda m: adam(m.parameters()))


def said(subject: Subject) -> list[Finding]:
    return list(check(subject, chosen(["LBL008"])).findings)


@pytest.mark.parametrize("loss", [by_index, by_weight])
@pytest.mark.parametrize(
    ("tags", "name"),
    [
        (["O", "B", "I", "S"], "O"),
        ({"O": 0, "B": 1, "I": 2, "S": 3}, "O"),
        ({1: "B", 0: "outside", 2: "I", 3: "S"}, "outside"),
        (enum.IntEnum("Stage", ["WAKE", "LIGHT", "DEEP", "DREAM"], start=0), "WAKE"),
    ],
)
def test_a_class_with_a_name_that_padding_shares_is_told(
    loss: Callable[[nn.Module, Batch], Tensor], tags: object, name: str
) -> None:
    (found,) = said(subject(tags, loss))
    assert (found.verdict, f"is 0, `{name}`:" in found.message) == (Verdict.WARN, True)


def test_padding_is_known_by_the_ids_alone() -> None:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        scores = model(batch["ids"], batch["ids"] > 0)
        return F.cross_entropy(scores.mT, batch["tags"], ignore_index=0)

    plain = subject(["O", "B", "I", "S"], loss)
    for batch in plain.batches:
        del batch["mask"]  # type: ignore[arg-type, union-attr]
    (found,) = said(plain)
    assert found.verdict is Verdict.WARN


@pytest.mark.parametrize("tags", [["<pad>", "B", "I", "S"], ["X", "B", "I", "S"]])
def test_a_class_that_is_called_after_padding_is_none(tags: object) -> None:
    assert said(subject(tags)) == []


def test_without_names_it_is_a_note() -> None:
    (found,) = said(subject(None))
    assert (found.verdict, found.fix.startswith("If it is a class")) == (Verdict.NOTE, True)


def test_padding_with_a_label_of_its_own_is_healthy() -> None:
    assert said(subject(["O", "B", "I", "S"], by_padding, pad=-100)) == []


def test_a_common_class_that_is_not_that_of_padding_may_be_left_out() -> None:
    assert said(subject(["O", "B", "I", "S"], by_weight, pad=-100)) == []


def test_ids_that_are_told_at_some_places_alone_are_healthy() -> None:
    assert said(subject([f"item {i}" for i in range(50)], masked=True)) == []


def test_names_are_found_on_configuration_and_data() -> None:
    plain = subject(None)

    class Texts(list[Batch]):
        names = ("a", "b")

    data = Texts(plain.batches)
    data.tags = ("O", "B", "I", "S")  # type: ignore[attr-defined]
    assert class_names(replace(plain, batches=data), 4) == [("O", "B", "I", "S")]
    assert name_of(replace(plain, batches=data), 4, 2) == "I"


def test_two_ways_to_call_them_are_no_name() -> None:
    one = subject(["O", "B", "I", "S"])
    one.model.more = ["A", "B", "C", "D"]  # type: ignore[assignment]
    assert (name_of(one, 4, 0), name_of(one, 4, 1)) == (None, "B")
    assert name_of(one, 5, 0) is None
