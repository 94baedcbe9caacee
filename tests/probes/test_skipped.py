"""Decoders that are fed their labels one place later, and losses that shift once more or not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]
WORDS = 20


class Captions(nn.Module):
    """A recurrent decoder that starts from a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.words = nn.Linear(6, 16), nn.Embedding(WORDS, 16)
        self.rnn, self.out = nn.GRU(16, 16, batch_first=True), nn.Linear(16, WORDS)
        self.after = nn.Linear(16, WORDS)

    def forward(self, picture: Tensor, fed: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.rnn(self.words(fed), self.start(picture)[None])[0]
        return self.out(hidden), self.after(hidden)

    @torch.no_grad()
    def greedy(self, picture: Tensor) -> Tensor:
        fed = torch.ones(len(picture), 1, dtype=torch.long)
        for _ in range(5):
            fed = torch.cat([fed, self(picture, fed)[0][:, -1:].argmax(-1)], 1)
        return fed[:, 1:]


def right(labels: Tensor) -> Tensor:
    """Behind a start, without the last; what is ignored is fed as padding."""
    fed = torch.cat([torch.ones_like(labels[:, :1]), labels[:, :-1]], 1)
    return fed.masked_fill(fed == -100, 0)


def scored(scores: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(scores.flatten(0, 1), labels.flatten(), ignore_index=-100)


def twice(model: nn.Module, batch: Batch) -> Tensor:
    scores = model(batch["picture"], right(batch["labels"]))[0]
    return scored(scores[:, :-1], batch["labels"][:, 1:])


def once(model: nn.Module, batch: Batch) -> Tensor:
    return scored(model(batch["picture"], right(batch["labels"]))[0], batch["labels"])


def by_the_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The data bring their start: nothing is shifted within the model."""
    fed = batch["labels"].masked_fill(batch["labels"] == -100, 0)
    scores = model(batch["picture"], fed)[0]
    return scored(scores[:, :-1], batch["labels"][:, 1:])


def two_ahead(model: nn.Module, batch: Batch) -> Tensor:
    """One head is asked for the next, the other for the one after it."""
    one, two = model(batch["picture"], right(batch["labels"]))
    return scored(one, batch["labels"]) + scored(two[:, :-1], batch["labels"][:, 1:])


@pytest.mark.parametrize("writes", [True, False])
@pytest.mark.parametrize(
    ("loss", "told"), [(twice, True), (once, False), (by_the_loss, False), (two_ahead, False)]
)
def test_labels_that_a_decoder_is_fed_shifted_are_not_to_be_shifted_again(
    loss: Loss, told: bool, writes: bool
) -> None:
    seed_everything(0)
    labels = torch.randint(3, WORDS, (9, 8))
    labels[::2, 6:], labels[1::3, 5:] = -100, -100
    subject = Subject(
        Captions(),
        [{"picture": torch.randn(9, 6), "labels": labels}],
        loss,
        lambda m: torch.optim.Adam(m.parameters()),
        (lambda m, b: m.greedy(b["picture"])) if writes else None,
    )
    said = check(subject, chosen(["LBL001"])).findings
    assert ["2 places after the last one" in each.message for each in said] == [True] * told
