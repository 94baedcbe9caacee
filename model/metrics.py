"""Accuracies under the gold prefix, each with its count.

A model that is right at every step given the gold prefix writes the gold query by itself, so
string accuracy is the share of queries that greedy decoding gets right, at no extra cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from model.collate import IGNORED, Batch
from model.linearise import KEYWORDS
from probes.subject import Ratio


def token(model: nn.Module, batch: Batch) -> Ratio:
    """Right steps of a query, `_EOS` counted, as the mean over queries: hits are shares."""
    right, there = _right(model, batch)
    length = there.sum(-1)  # (n, t)
    share = right.sum(-1) / length.clamp(min=1)
    return Ratio(share.sum(), (length > 0).sum())


def string(model: nn.Module, batch: Batch) -> Ratio:
    """Queries whose every step is right, `_EOS` too."""
    right, there = _right(model, batch)
    whole = (right | ~there).all(-1) & there.any(-1)  # (n, t, j) -> (n, t)
    return Ratio(whole.sum(), there.any(-1).sum())


def key(model: nn.Module, batch: Batch) -> Ratio:
    """Right steps among those whose gold is a keyword; one that no output can produce is not."""
    right, _ = _right(model, batch)
    labels = batch["labels"]
    asked = (labels != IGNORED) & (labels < len(KEYWORDS))
    return Ratio((right & asked).sum(), asked.sum())


def db(model: nn.Module, batch: Batch) -> Ratio:
    """Right steps among those whose gold is a unit."""
    right, _ = _right(model, batch)
    asked = batch["labels"] >= len(KEYWORDS)
    return Ratio((right & asked).sum(), asked.sum())


def unreachable(model: nn.Module, batch: Batch) -> Ratio:
    """Gold steps that no output can produce, out of all: the model is not asked."""
    there = batch["step_mask"]
    return Ratio((there & (batch["labels"] == IGNORED)).sum(), there.sum())


METRICS: Mapping[str, Callable[[nn.Module, Batch], Ratio]] = {
    "token": token,
    "string": string,
    "key": key,
    "db": db,
}
"""The accuracies by name."""


@torch.no_grad()
def _right(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Which steps the likeliest output gets right, and which are there: (n, t, j) both."""
    there: Tensor = batch["step_mask"]
    likeliest = model(batch)["scores"].argmax(-1)  # (n, t, j, output) -> (n, t, j)
    return (likeliest == batch["labels"]) & there, there
