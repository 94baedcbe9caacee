"""Inputs and labels that are repeated are repeated alike."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
CHANCE = torch.Generator().manual_seed(0)
X = torch.randn(9, 6, generator=CHANCE)
OTHER = torch.randn(18, 6, generator=CHANCE)
CLASSES = torch.tensor([0, 3, 1, 2, 2, 0, 3, 1, 1])
NUMBERS = torch.randn(9, 4, generator=CHANCE)


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        seen = x if other is None else x * other
        scores: Tensor = self.head(self.body(seen).relu())
        return scores


def loss(model: nn.Module, batch: Batch) -> Tensor:
    scores, labels = model(batch["x"], batch.get("other")), batch["labels"]
    if labels.is_floating_point():
        return F.mse_loss(scores, labels)
    return F.cross_entropy(scores, labels)


def said(**batch: Tensor) -> list[Finding]:
    seed_everything(0)
    subject = Subject(
        Reader(), [batch], loss, lambda model: torch.optim.SGD(model.parameters(), lr=0.1)
    )
    return list(check(subject, chosen(only=["IDX002"])).findings)


def again(values: Tensor, times: int = 2) -> Tensor:
    return torch.cat([values] * times)


def each(values: Tensor, times: int = 2) -> Tensor:
    return values.repeat_interleave(times, 0)


@pytest.mark.parametrize("labels", [CLASSES, NUMBERS], ids=["classes", "numbers"])
@pytest.mark.parametrize("times", [2, 3])
def test_inputs_in_one_order_and_labels_in_the_other_are_told(labels: Tensor, times: int) -> None:
    for first, second in ((again, each), (each, again)):
        (found,) = said(x=first(X, times), labels=second(labels, times))
        assert (found.verdict, found.site) == (Verdict.WARN, "<data>")
        assert f"repeated {times} times in one order and their labels in another" in found.message


@pytest.mark.parametrize(
    "batch",
    [
        {"x": again(X), "labels": again(CLASSES)},
        {"x": each(X), "labels": each(NUMBERS)},
        {"x": again(X), "other": OTHER, "labels": each(CLASSES)},  # pairs, not repeated
        {"x": again(X), "labels": torch.cat([CLASSES, CLASSES.flip(0)])},  # of two annotators
        {"x": again(X), "labels": torch.arange(18) % 2},  # positive, negative
        {"x": again(X), "labels": torch.zeros(18, dtype=torch.long)},
        {"x": OTHER, "labels": each(CLASSES)},  # two of every class
        {"x": X[torch.arange(18) % 5], "labels": CLASSES[torch.arange(18) % 5]},  # oversampled
        {"x": again(X[:3]), "labels": torch.tensor([0, 0, 1, 1, 0, 0])},  # may well be chance
    ],
    ids=["again", "each", "pairs", "two", "signs", "same", "classes", "more", "few"],
)
def test_what_is_repeated_alike_or_not_repeated_is_not_told(batch: Batch) -> None:
    assert said(**batch) == []
