"""Texts cut along and across, and rows that only look so."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from probes import Subject
from probes.checks.cut_across import TextCutAcross
from probes.experiment import Experiment


class Reader(nn.Module):
    """A recurrent model of the next letter."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.rnn = nn.Embedding(30, 16), nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, 30)

    def forward(self, letters: Tensor) -> Tensor:
        scores: Tensor = self.head(self.rnn(self.embedding(letters))[0])
        return scores


def text(count: int) -> Tensor:
    chance = torch.Generator().manual_seed(0)
    follows = torch.rand(30, 30, generator=chance) ** 8
    found = [0]
    for _ in range(count - 1):
        found.append(int(torch.multinomial(follows[found[-1]], 1, generator=chance)))
    return torch.tensor(found)


def across() -> Tensor:
    return text(24 * 40).view(40, 24).t()


def along() -> Tensor:
    return text(24 * 40).view(24, 40)


def windows() -> Tensor:
    return text(24 + 39).unfold(0, 40, 1)


def copies() -> Tensor:
    return torch.randint(0, 30, (6, 40)).repeat_interleave(4, 0)


def apart() -> Tensor:
    return torch.randint(0, 30, (24, 40))


def found(letters: Tensor) -> list[str]:
    subject = Subject(
        Reader(),
        [{"letters": part.contiguous()} for part in letters.split(10, 1)],
        lambda model, batch: nn.functional.cross_entropy(
            model(batch["letters"])[:, :-1].flatten(0, 1), batch["letters"][:, 1:].flatten()
        ),
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
    )
    return [each.message for each in TextCutAcross().judge(Experiment.of(subject))]


def test_a_text_that_goes_on_from_row_to_row_is_told() -> None:
    assert len(found(across())) == 1


@pytest.mark.parametrize("letters", [along(), windows(), copies(), apart()])
def test_rows_that_go_on_by_themselves_are_silence(letters: Tensor) -> None:
    assert found(letters) == []


class TimeFirst(nn.Module):
    """A recurrent model of the next letter, of letters (time, sample)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.rnn, self.head = (
            nn.Embedding(30, 16),
            nn.GRU(16, 16),
            nn.Linear(16, 30),
        )

    def forward(self, letters: Tensor) -> Tensor:
        scores: Tensor = self.head(self.rnn(self.embedding(letters))[0])
        return scores.flatten(0, 1)


def voices() -> Tensor:
    """(time, voice): what the voices sing hangs together, and not from time to time."""
    return (torch.randint(0, 30, (161, 1)) + torch.tensor([0, 4, 7, 11, 16, 19])) % 30


def found_time_first(letters: Tensor, flat: bool) -> list[str]:
    starts = range(0, len(letters) - 1, 16)
    given = [(letters[i : i + 16], letters[i + 1 : i + 17][: len(letters) - 1 - i]) for i in starts]
    batches = [(x[: len(y)], y.reshape(-1) if flat else y) for x, y in given]
    subject = Subject(
        TimeFirst(),
        batches,
        lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1].reshape(-1)),
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
    )
    return [each.message for each in TextCutAcross().judge(Experiment.of(subject))]


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("length", [161, 168])
def test_a_text_that_goes_on_along_the_samples_is_told(flat: bool, length: int) -> None:
    (message,) = found_time_first(text(12 * length).view(length, 12), flat)
    assert "column" in message


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize(
    "letters",
    [
        text(12 * 161).view(12, 161).t(),
        text(12 + 160).unfold(0, 161, 1).t(),
        torch.randint(0, 30, (161, 12)),
        voices(),
    ],
)
def test_samples_beside_each_other_are_silence(letters: Tensor, flat: bool) -> None:
    assert found_time_first(letters.contiguous(), flat) == []
