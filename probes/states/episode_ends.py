"""Flags of where episodes end or begin, as told by what the data look like where one begins."""

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


def marks_ends(experiment: Experiment, key: str, value: float, turned: bool = False) -> bool:
    """Whether the steps behind flagged ones are like those that rows begin with, and no others.

    Over all the columns in which they are: a step is like a first one where each of them is within
    what it is at the first place of all rows. Flagged steps are not, and the most others are not,
    so that a first step can be told: of rows that are cut anywhere out of a stream it cannot.
    turned: rows stand on the second axis, and places on the first.
    """
    like = _like_first(experiment, key, value, turned, "behind")
    if like is None:
        return False
    return like["flagged"] <= 1 - MOST and like["behind"] >= MOST and like["other"] < 0.5


def marks_beginnings(experiment: Experiment, key: str, value: float, turned: bool = False) -> bool:
    """Whether flagged steps are like those that rows begin with, and others, which are more, not.

    As of `marks_ends`; the first steps of rows are left out. Most of them stand behind one that is
    not flagged: what is no padding stands behind the like.
    """
    like = _like_first(experiment, key, value, turned, "begun")
    if like is None or max(like["share"], like["in turn"]) > 0.5:
        return False
    return like["begun"] >= MOST and like["rest"] <= 1 - MOST


def _like_first(
    experiment: Experiment, key: str, value: float, turned: bool, leads: str
) -> dict[str, float] | None:
    """Of steps of each kind, the share that is like rows' first steps; None of too few.

    Over the columns in which those of the kind that leads are. `share`: of steps that are flagged.
    `in turn`: of these, those that stand behind another one.
    """
    parts = [_columns(experiment, batch, key, turned) for batch in looked(experiment)]
    steps = [each for each in parts if each is not None]
    widths = {each[0].shape[2] for each in steps}
    if len(widths) != 1:
        return None
    first = torch.cat([columns[:, 0] for columns, _ in steps])
    low, high = first.amin(0), first.amax(0)
    beside = WIDER * (high - low)
    low, high = low - beside, high + beside
    inside: dict[str, list[Tensor]] = {}
    for columns, flags in steps:
        within = (columns >= low) & (columns <= high)
        for kind, where in _kinds(flags == value):
            inside.setdefault(kind, []).append(within[where])
    kinds = {kind: torch.cat(found).float() for kind, found in inside.items()}
    asked = ("flagged", "behind", "other") if leads == "behind" else ("begun", "rest")
    if min(len(kinds[kind]) for kind in asked) < FEWEST:
        return None
    agree = kinds[leads].mean(0) >= MOST
    like = {kind: float(kinds[kind][:, agree].all(1).float().mean()) for kind in asked}
    begun, rest, again = (max(1, len(kinds[kind])) for kind in ("begun", "rest", "again"))
    return like | {"share": begun / (begun + rest), "in turn": again / begun}


def _kinds(flagged: Tensor) -> Iterator[tuple[str, Tensor]]:
    """(row, place) masks: of flagged steps, of those behind them, of others but for the first.

    `begun` and `rest` are all that are flagged and all that are not, but for the first, and
    `again` those of `begun` that stand behind a flagged one.
    """
    behind = torch.zeros_like(flagged)
    behind[:, 1:] = flagged[:, :-1]
    other = ~flagged & ~behind
    other[:, 0] = False
    yield "flagged", flagged & ~behind
    yield "behind", behind & ~flagged
    yield "other", other
    later = torch.ones_like(flagged)
    later[:, 0] = False
    yield "begun", flagged & later
    yield "rest", ~flagged & later
    yield "again", flagged & behind


def _columns(
    experiment: Experiment, batch: dict[str, Tensor], key: str, turned: bool
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
    columns = torch.cat(list(found), 2)[:, :, :COLUMNS]
    if turned:
        columns, flags = columns.transpose(0, 1), flags.T
    return (columns, flags) if flags.shape[1] else None
