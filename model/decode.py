"""Greedy decoding: each query written step by step, after the gold queries of earlier turns."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.collate import EOS, Batch
from model.parser import parser_of

LONGEST = 64
"""Steps after which a query without an end is given up."""


@torch.no_grad()
def greedy(model: nn.Module, batch: Batch, longest: int = LONGEST) -> Tensor:
    """The likeliest step after each step: (n, t, j) output ids, nothing but `_EOS` after its end.

    j is as long as the longest query that was written, at most `longest`. Previous queries are
    the gold ones, as in training; no label of the turn itself is read.
    """
    parser = parser_of(model)
    memory = parser.read(batch)
    written = torch.full_like(batch["inputs"][..., :1], EOS)  # (n, t, 1), the start
    ended = ~batch["turn_mask"]
    for _ in range(longest):
        scores = parser.decode(memory, written)["scores"][:, :, -1]  # (n, t, output)
        step = scores.argmax(-1).masked_fill(ended, EOS)
        written = torch.cat([written, step[..., None]], -1)
        ended = ended | (step == EOS)
        if ended.all():
            break
    return written[..., 1:]


def queries(model: nn.Module, batch: Batch, longest: int = LONGEST) -> list[list[tuple[str, ...]]]:
    """What `greedy` wrote as steps, for every turn of every sample."""
    collate, turns = parser_of(model).collate, batch["turn_mask"].sum(1).tolist()
    rows = zip(greedy(model, batch, longest).tolist(), batch["database"], turns, strict=True)
    return [[collate.steps(ids, name) for ids in row[:count]] for row, name, count in rows]
