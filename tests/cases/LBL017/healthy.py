"""Labels are left out where the mask hides."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

PLANTED = None
EOS = PAD = 0


class Writer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 32)
        self.lstm = nn.LSTM(32, 64, batch_first=True)
        self.head = nn.Linear(64, 30)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        seen = self.embedding(ids) * attention_mask[..., None]
        logits: Tensor = self.head(self.lstm(seen)[0])
        return logits


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    scores = model(batch["input_ids"], batch["attention_mask"])[:, :-1].flatten(0, 1)
    return nn.functional.cross_entropy(scores, batch["labels"][:, 1:].flatten())


def subject() -> Subject:
    """Every row counts on from its first number, and ends with an end, which pads it as well."""
    ids, attention_mask = torch.full((24, 11), PAD), torch.zeros(24, 11, dtype=torch.long)
    for row in range(24):
        length = 3 + row % 7
        ids[row, :length] = torch.arange(row + 1, row + 1 + length) % 29 + 1
        ids[row, length] = EOS
        attention_mask[row, : length + 1] = 1
    labels = ids.masked_fill(attention_mask == 0, -100)
    batch = {"input_ids": ids, "attention_mask": attention_mask, "labels": labels}
    return Subject(
        Writer(), [batch], loss, lambda model: torch.optim.Adam(model.parameters(), lr=0.01)
    )
