"""Every place is asked for the next token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None


class Reader(nn.Module):
    """A recurrent model of the next token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 32)
        self.rnn = nn.GRU(32, 64, batch_first=True)
        self.head = nn.Linear(64, 40)

    def forward(self, tokens: Tensor) -> Tensor:
        scores: Tensor = self.head(self.rnn(self.embedding(tokens))[0])
        return scores


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    scores = model(batch["tokens"])
    return nn.functional.cross_entropy(
        scores[:, :-1].flatten(0, 1), batch["tokens"][:, 1:].flatten()
    )


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 40, (24, 8), generator=chance)
    tokens[:, 0] = torch.arange(24)  # so that the rest can be known
    return Subject(
        Reader(),
        [{"tokens": tokens}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
    )
