"""The token before counts only where it is of the same text."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None


class Writer(nn.Module):
    """Several texts stand in each row; each token is mixed with the one before it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 32)
        self.attention = nn.MultiheadAttention(32, 2, batch_first=True)
        self.head = nn.Linear(32, 40)

    def forward(self, ids: Tensor, text: Tensor) -> Tensor:
        hidden = self.embedding(ids)
        before = nn.functional.pad(hidden, (0, 0, 1, 0))[:, :-1]
        same = text == nn.functional.pad(text, (1, 0), value=-1)[:, :-1]
        before = before * same[..., None]
        hidden = hidden + before / 2
        apart = text[:, :, None] != text[:, None, :]
        later = torch.ones_like(apart[0]).triu(1)
        mask = (apart | later).repeat_interleave(2, dim=0)
        read, _ = self.attention(hidden, hidden, hidden, attn_mask=mask)
        logits: Tensor = self.head(hidden + read)
        return logits


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    ids, text = batch["ids"], batch["text"]
    scores = model(ids, text)[:, :-1].transpose(1, 2)
    wanted = ids[:, 1:].masked_fill(text[:, 1:] != text[:, :-1], -100)
    return nn.functional.cross_entropy(scores, wanted)


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    ids, text = torch.zeros(2, 24, 15, dtype=torch.long)
    for row in range(24):
        ends = 3 + row % 5, 9 + row % 4, 15
        for number, (start, end) in enumerate(zip((0, *ends), ends, strict=False)):
            first = torch.randint(40, (1,), generator=chance)
            ids[row, start:end] = (first + 7 * torch.arange(end - start)) % 40
            text[row, start:end] = number
    return Subject(
        Writer(),
        [{"ids": ids, "text": text}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
        predict=lambda model, b: model(b["ids"], b["text"]),
    )
