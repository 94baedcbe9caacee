"""Masks that stand at other places among an attention's keys than what they mask."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from probes.experiment import Experiment, with_leaf
from probes.finding import ExperimentError
from probes.masking.hidden import Hidden
from probes.softmaxes.attended import Attended
from probes.vary import vary

MORE = 4  # keys that a model adds to its tokens at most, such as one for a summary


@dataclass(frozen=True)
class Displaced:
    """A mask that is not extended on the side on which the keys are more than the tokens.

    held: the key at which the first token stands. masked: the one that its mask speaks of. lost:
    whether a token is hidden by it, and not only padding seen, in whose place something else may
    have been put.
    """

    held: int
    masked: int
    lost: bool


def displaced(experiment: Experiment, each: Hidden, one: Attended) -> Displaced | None:
    """Where an attention has a few more keys than tokens, and the mask was extended otherwise.

    Only an exact fit counts, over all rows, heads and keys of tokens; where the tokens stand is
    seen by one that is changed.
    """
    keep = each.keep
    more = one.blocked.shape[-1] - keep.shape[-1]
    if keep.ndim != 2 or not 0 < more <= MORE or len(one.blocked) != len(keep):
        return None
    never, hides, length = one.blocked.all(2), ~keep[:, None], keep.shape[1]
    parts = [never[..., by : by + length] for by in range(more + 1)]
    fits = [by for by, part in enumerate(parts) if torch.equal(part, hides.expand_as(part))]
    if len(fits) != 1 or not bool(hides.any()):
        return None
    held = _held_from(experiment, each, length + more)
    if held is None or held == fits[0]:
        return None
    return Displaced(held, fits[0], bool((parts[held] & keep[:, None]).any()))


def _held_from(experiment: Experiment, each: Hidden, length: int) -> int | None:
    """The first place of what is to hold tokens and more, by the one place that moves with one."""
    column = int(each.keep.sum(0).argmax())
    where = torch.zeros_like(each.keep)
    where[:, column] = each.keep[:, column]
    tensor = experiment.tensors[each.key]
    other = vary(tensor, where, tensor[each.keep])
    if other is None:
        return None
    try:
        ran = experiment.evaluate(with_leaf(experiment.batch, each.key, other))
    except ExperimentError:
        return None
    now = {(event.site, event.kind, event.call): event.value for event in ran.events}
    for event in experiment.evaluated.ran.events:
        after = now.get((event.site, event.kind, event.call))
        if event.value is None or after is None or after.shape != event.value.shape:
            continue
        if event.value.ndim == 3 and event.value.shape[:2] == (len(where), length):
            moved = _moved(event.value, after)
            if moved:
                first = moved[0] - column
                return first if len(moved) == 1 and 0 <= first <= length - len(where[0]) else None
    return None


def _moved(before: Tensor, after: Tensor) -> list[int]:
    places: list[int] = (before != after).flatten(2).any(2).any(0).nonzero().flatten().tolist()
    return places
