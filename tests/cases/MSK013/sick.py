"""The mask is cut like the outputs, and not like the labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "<loss>", "phase": "forward"}


class Writer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 32)
        self.lstm = nn.LSTM(32, 48, batch_first=True)
        self.head = nn.Linear(48, 40)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.lstm(self.embedding(ids))[0])
        return logits


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    scores = model(batch["ids"][:, :-1]).transpose(1, 2)
    each = nn.functional.cross_entropy(scores, batch["ids"][:, 1:], reduction="none")
    mask = batch["answer"][:, :-1]
    return (each * mask).sum() / mask.sum()


def subject() -> Subject:
    """A question, a 3, the same backwards, a 2, and zeros."""
    chance = torch.Generator().manual_seed(0)
    ids, answer = torch.zeros(2, 24, 15, dtype=torch.long)
    for row in range(24):
        words = torch.randint(4, 40, (2 + row % 5,), generator=chance)
        text = torch.cat([words, torch.tensor([3]), words.flip(0), torch.tensor([2])])
        ids[row, : len(text)] = text
        answer[row, len(words) + 1 : len(text)] = 1
    return Subject(
        Writer(),
        [{"ids": ids, "answer": answer}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
    )
