"""A text is cut so that it goes on along its rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None
ROWS, LENGTH = 24, 60


class Reader(nn.Module):
    """A recurrent model of the next letter."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 48)
        self.rnn = nn.GRU(48, 64, batch_first=True)
        self.head = nn.Linear(64, 30)

    def forward(self, letters: Tensor) -> Tensor:
        scores: Tensor = self.head(self.rnn(self.embedding(letters))[0])
        return scores


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    scores = model(batch["letters"])[:, :-1]
    return nn.functional.cross_entropy(scores.flatten(0, 1), batch["letters"][:, 1:].flatten())


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    follows = torch.rand(30, 30, generator=chance) ** 8
    text = [0]
    for _ in range(ROWS * LENGTH - 1):
        text.append(int(torch.multinomial(follows[text[-1]], 1, generator=chance)))
    streams = torch.tensor(text).view(ROWS, LENGTH)
    batches = [{"letters": part.contiguous()} for part in streams.split(6, 1)]
    for batch, start in zip(batches, range(len(batches)), strict=True):
        batch["letters"][:, 0] = (torch.arange(ROWS) + start) % 30  # so that the rest can be known
    return Subject(
        Reader(), batches, loss, lambda model: torch.optim.Adam(model.parameters(), 0.01)
    )
