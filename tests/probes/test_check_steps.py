"""What is made step by step is what is made at once."""

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


class Stepper(nn.Module):
    """Words with their places, read one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 12), nn.Embedding(12, 12)
        self.read, self.head = nn.GRU(12, 12, batch_first=True), nn.Linear(12, 20)

    def forward(
        self, words: Tensor, start: int = 0, kept: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        steps = torch.arange(start, start + words.shape[1])
        read, kept = self.read(self.words(words) + 2 * self.places(steps), kept)
        return 5 * self.head(read), kept


def in_steps(model: nn.Module, words: Tensor, at: Callable[[int], int]) -> Tensor:
    given, kept = [], None
    for i, word in enumerate(words.split(1, 1)):
        scores, kept = model(word, at(i), kept)
        given.append(scores)
    return torch.cat(given, 1)


def at_its_place(model: nn.Module, words: Tensor) -> Tensor:
    return in_steps(model, words, lambda i: i)


def always_first(model: nn.Module, words: Tensor) -> Tensor:
    return in_steps(model, words, lambda i: 0).log_softmax(-1)


def forgetful(model: nn.Module, words: Tensor) -> Tensor:
    """What stood before the last word is lost."""
    return torch.cat([model(word, i)[0] for i, word in enumerate(words.split(1, 1))], 1)


def of_its_own(model: nn.Module, words: Tensor) -> Tensor:
    """Reads what it wrote after the first word."""
    written = words[:, :1]
    for _ in range(words.shape[1] - 1):
        written = torch.cat([written, model(written)[0][:, -1:].argmax(-1)], 1)
    scores: Tensor = model(written)[0]
    return scores


def penalised(model: nn.Module, words: Tensor) -> Tensor:
    """What stands there already is unlikely to be written again."""
    scores: Tensor = model(words)[0].clone()
    for i in range(words.shape[1]):
        scores[:, i].scatter_add_(1, words[:, :i], torch.full((len(words), i), -3.0))
    return scores


def looking_back(model: nn.Module, words: Tensor) -> Tensor:
    """Reads the last four words alone."""
    starts = [max(0, i - 3) for i in range(words.shape[1])]
    given = [model(words[:, start : i + 1], start)[0][:, -1:] for i, start in enumerate(starts)]
    return torch.cat(given, 1)


def sharpened(model: nn.Module, words: Tensor) -> Tensor:
    scores: Tensor = model(words)[0] * 2
    return scores


@pytest.mark.parametrize(
    ("way", "sites"),
    [
        (always_first, ["places"]),
        (forgetful, ["read"]),
        *[(each, []) for each in (at_its_place, of_its_own, penalised, looking_back, sharpened)],
    ],
)
def test_scores_that_predict_has_step_by_step_are_held_against_those_of_the_loss(
    way: Callable[[nn.Module, Tensor], Tensor], sites: list[str]
) -> None:
    def loss(model: nn.Module, b: Batch) -> Tensor:
        scores, _ = model(b["words"][:, :-1])
        return F.cross_entropy(scores.flatten(0, 1), b["words"][:, 1:].flatten())

    seed_everything(0)
    subject = Subject(
        Stepper(),
        [{"words": torch.randint(20, (6, 9))}],
        loss,
        lambda each: torch.optim.SGD(each.parameters(), lr=0.1),
        predict=lambda model, b: way(model, b["words"][:, :-1]),
    )
    judged = check(subject, chosen(only=["MSK009"]))
    assert judged.not_judged == ()
    assert [each.site for each in judged.findings] == sites
