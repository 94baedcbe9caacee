"""Flags that mark where episodes end, as told by what the data look like where one begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.reading.rows import looked

FEWEST = 8  # steps of a kind, of all that are looked at
MOST = 0.95  # of the steps of a kind are alike
WIDER = 0.5  # of their range: so far beside it another first step may lie
COLUMNS = 512


def marks_ends(experiment: Experiment, key: str, value: float) -> bool:
    """Whether the steps behind flagged ones are like those that rows begin with, and no others.

    Over all the columns in which they are: a step is like a first one where each of them is within
    what it is at the first place of all rows. Flagged steps are not, and the most others are not,
    so that a first step can be told: of rows that are cut anywhere out of a stream it cannot.
    """
    parts = [_columns(experiment, batch, key) for batch in looked(experiment)]
    steps = [each for each in parts if each is not None]
    widths = {each[0].shape[2] for each in steps}
    if len(widths) != 1:
        return False
    first = torch.cat([columns[:, 0] for columns, _ in steps])
    low, high = first.amin(0), first.amax(0)
    beside = WIDER * (high - low)
    low, high = low - beside, high + beside
    inside: dict[str, list[Tensor]] = {"flagged": [], "behind": [], "other": []}
    for columns, flags in steps:
        within = (columns >= low) & (columns <= high)
        for kind, where in _kinds(flags == value):
            inside[kind].append(within[where])
    kinds = {kind: torch.cat(found).float() for kind, found in inside.items()}
    if min(len(found) for found in kinds.values()) < FEWEST:
        return False
    agree = kinds["behind"].mean(0) >= MOST
    like = {kind: float(found[:, agree].all(1).float().mean()) for kind, found in kinds.items()}
    return like["flagged"] <= 1 - MOST and like["behind"] >= MOST and like["other"] < 0.5


def _kinds(flagged: Tensor) -> Iterator[tuple[str, Tensor]]:
    """(row, place) masks: of flagged steps, of those behind them, of others but for the first."""
    behind = torch.zeros_like(flagged)
    behind[:, 1:] = flagged[:, :-1]
    other = ~flagged & ~behind
    other[:, 0] = False
    yield "flagged", flagged & ~behind
    yield "behind", behind & ~flagged
    yield "other", other


def _columns(
    experiment: Experiment, batch: dict[str, Tensor], key: str
) -> tuple[Tensor, Tensor] | None:
    """(row, place, column) numbers of all keys that have the flag's rows and places, and the flag.

    Neither the flag itself, nor labels or masks.
    """
    flags = batch.get(key)
    if flags is None or flags.ndim != 2:
        return None
    left = {key, *experiment.targets, *(each.key for each in experiment.masks)}
    found: Sequence[Tensor] = [
        tensor.detach().double().reshape(*flags.shape, -1)
        for name, tensor in sorted(batch.items())
        if name not in left and tensor.shape[:2] == flags.shape and not tensor.is_complex()
    ]
    if not found:
        return None
    columns = torch.cat(list(found), 2)
    return (columns[:, :, :COLUMNS], flags) if flags.shape[1] else None
