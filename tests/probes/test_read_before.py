"""Outputs that are asked for an id which they have read, and those that only look like it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.seeding import seed_everything

Model = nn.Module
Loss = Callable[[Model, Tensor], Tensor]
WORDS, PLACES = 12, 20


class Recurrent(nn.Module):
    def __init__(self, both: bool = False) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS + 1, 16)
        self.rnn = nn.GRU(16, 16, batch_first=True, bidirectional=both)
        self.out, self.other = (nn.Linear(32 if both else 16, WORDS) for _ in range(2))

    def hidden(self, ids: Tensor) -> Tensor:
        hidden: Tensor = self.rnn(self.words(ids))[0]
        return hidden

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.out(self.hidden(ids))
        return logits


class Backwards(Recurrent):
    """Reads from the right, so that the id before is the next."""

    def hidden(self, ids: Tensor) -> Tensor:
        return super().hidden(ids.flip(1)).flip(1)


class Bigram(Recurrent):
    """Reads no id but its own place's."""

    def hidden(self, ids: Tensor) -> Tensor:
        vectors: Tensor = self.words(ids)
        return vectors


class Attends(Recurrent):
    def __init__(self) -> None:
        super().__init__()
        self.at = nn.Embedding(PLACES, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)

    def hidden(self, ids: Tensor) -> Tensor:
        hides = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        vectors = self.words(ids) + self.at.weight[: ids.shape[1]]
        hidden: Tensor = self.layer(vectors, hides, is_causal=True)
        return hidden


class Convolves(Recurrent):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(16, 16, 3)

    def hidden(self, ids: Tensor) -> Tensor:
        vectors = F.pad(self.words(ids).transpose(1, 2), (2, 0))
        return torch.relu(self.conv(vectors)).transpose(1, 2)


def scored(logits: Tensor, ids: Tensor) -> Tensor:
    return F.cross_entropy(logits.reshape(-1, WORDS), ids.reshape(-1))


def back(model: Model, ids: Tensor) -> Tensor:
    return scored(model(ids)[:, 1:], ids[:, :-1])


def two_back(model: Model, ids: Tensor) -> Tensor:
    return scored(model(ids)[:, 2:], ids[:, :-2])


def cut_first(model: Model, ids: Tensor) -> Tensor:
    return scored(model(ids[:, 1:]), ids[:, :-1])


def never_shifted(model: Model, ids: Tensor) -> Tensor:
    return scored(model(ids[:, :-1]), ids[:, :-1])


def two_ahead(model: Model, ids: Tensor) -> Tensor:
    return scored(model(ids)[:, :-2], ids[:, 2:])


def ahead(model: Model, ids: Tensor) -> Tensor:
    return scored(model(ids)[:, :-1], ids[:, 1:])


def cut_last(model: Model, ids: Tensor) -> Tensor:
    return scored(model(ids[:, :-1]), ids[:, 1:])


def behind_a_start(model: Model, ids: Tensor) -> Tensor:
    fed = torch.cat([torch.full_like(ids[:, :1], WORDS), ids[:, :-1]], 1)
    return scored(model(fed), ids)


def both_ways(model: Any, ids: Tensor) -> Tensor:
    hidden = model.hidden(ids)
    return ahead(model, ids) + scored(model.other(hidden)[:, 1:], ids[:, :-1])


def filled_in(model: Model, ids: Tensor) -> Tensor:
    masked = (torch.arange(PLACES) * 7 + ids.sum(1, keepdim=True)) % 5 == 0
    labels = ids.masked_fill(~masked, -100)
    return F.cross_entropy(model(ids.masked_fill(masked, WORDS)).flatten(0, 1), labels.flatten())


def told(model: Model, loss: Loss, ids: Tensor, form: str) -> list[str]:
    batch: Any = {"tokens": ids} if form == "dict" else [ids] if form == "list" else (ids,)

    def ids_of(batch: Any) -> Tensor:
        held: Tensor = batch["tokens"] if form == "dict" else batch[0]
        return held

    subject = Subject(
        model,
        [batch],
        lambda m, b: loss(m, ids_of(b)),
        lambda m: torch.optim.Adam(m.parameters()),
        lambda m, b: m(ids_of(b)),
    )
    return [each.message for each in check(subject, chosen(["LBL001"])).findings]


def text(rows: int = 16) -> Tensor:
    """Each id goes up by one or two from the one before."""
    steps = torch.randint(1, 3, (rows, PLACES), generator=torch.Generator().manual_seed(0))
    return (steps * (torch.arange(rows)[:, None] % 2 * 2 + 1)).cumsum(1) % WORDS


def noise(rows: int = 16) -> Tensor:
    return torch.randint(WORDS, (rows, PLACES), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("model", "loss", "form", "says"),
    [
        (Recurrent, back, "dict", "1 place before"),
        (Attends, back, "tuple", "1 place before"),
        (Convolves, back, "list", "1 place before"),
        (Attends, two_back, "dict", "2 places before"),
        (Recurrent, cut_first, "tuple", "1 place before"),
        (Attends, cut_first, "dict", "1 place before"),
        (Convolves, never_shifted, "dict", "read last"),
        (Recurrent, two_ahead, "list", "2 places after"),
    ],
)
def test_an_id_that_was_read_is_no_label(
    model: type[Recurrent], loss: Loss, form: str, says: str
) -> None:
    seed_everything(0)
    found = told(model(), loss, text(), form)
    assert [says in each for each in found] == [True], found


@pytest.mark.parametrize(
    ("model", "loss", "ids"),
    [
        (Recurrent, ahead, text()),
        (Attends, cut_last, text()),
        (Convolves, behind_a_start, text()),
        (Recurrent, both_ways, text()),  # a second head recalls beside the one that foretells
        (Backwards, back, text()),
        (Backwards, cut_first, text()),
        (Bigram, back, text()),  # asked for the id before, of which it has read nothing
        (lambda: Recurrent(both=True), filled_in, text()),
        (lambda: Recurrent(both=True), never_shifted, text()),  # an autoencoder
        (Recurrent, back, noise()),  # none tells the next: to recall is the task
        (Recurrent, two_back, noise()),
    ],
)
def test_what_reads_otherwise_or_foretells_or_is_to_recall_is_well(
    model: Callable[[], Model], loss: Loss, ids: Tensor
) -> None:
    seed_everything(0)
    assert told(model(), loss, ids, "dict") == []
