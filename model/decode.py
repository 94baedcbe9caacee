"""Greedy decoding: each query written step by step, after the gold queries of earlier turns."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.collate import EOS, Batch
from model.parser import parser_of

LONGEST = 64
"""Steps after which a query without an end is given up."""


@torch.no_grad()
def greedy(model: nn.Module, batch: Batch, longest: int = LONGEST, last: bool = False) -> Tensor:
    """The likeliest step after each step: (n, t, j) output ids, nothing but `_EOS` after its end.

    j is as long as the longest query that was written, at most `longest`. Previous queries are
    the gold ones, as in training; no label of the turn itself is read. With `last` each sample's
    last turn alone is written, and the others are `_EOS`.
    """
    parser = parser_of(model)
    memory, there = parser.read(batch), batch["turn_mask"]
    if last:
        there = there & (there.cumsum(1) == there.sum(1, keepdim=True))
    rows = there.flatten().nonzero()[:, 0]  # of the r = n * t, those whose query goes on
    written = torch.full((there.numel(), 1), EOS, device=there.device)  # (r, j), with the start
    for _ in range(longest):
        step = torch.full_like(written[:, :1], EOS)
        scores = parser.decode(memory.at(rows), written[rows][:, None])["scores"]
        step[rows] = scores[:, :, -1].argmax(-1)  # (row, 1, j, output) -> (row, 1)
        written = torch.cat([written, step], 1)
        rows = rows[step[rows, 0] != EOS]
        if not len(rows):
            break
    return written[:, 1:].unflatten(0, there.shape)  # type: ignore[no-any-return]


def queries(model: nn.Module, batch: Batch, last: bool = False) -> list[list[tuple[str, ...]]]:
    """What `greedy` wrote as steps, for every turn of every sample."""
    collate, turns = parser_of(model).collate, batch["turn_mask"].sum(1).tolist()
    rows = zip(greedy(model, batch, last=last).tolist(), batch["database"], turns, strict=True)
    return [[collate.steps(ids, name) for ids in row[:count]] for row, name, count in rows]
