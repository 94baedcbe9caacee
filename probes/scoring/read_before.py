"""Outputs in order that are asked for an id which they have read."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.masking.trailing import at_either_end
from probes.reading.rows import looked
from probes.scoring.wanted import Wanted

Felt = Callable[[int], Tensor | None]
"""Place of the key to (place of the output,): which move with other content there."""

SHUFFLES = 20
CLEAR = 5.0  # standard deviations
FEWEST = 32  # pairs of neighbours


def read_before(experiment: Experiment, each: Wanted, ahead: int, behind: int, felt: Felt) -> bool:
    """Whether an output that reads ids in order is asked for one of them, and has read that one.

    ahead: how far after its place the id stands that it is asked for. behind: how far after an id
    the first output stands that reads it. Left out is what LBL007 says, the id of an output's own
    place; what a key of labels is held against; and ids of which none tells the next, so that to
    recall an earlier one is what was meant.
    """
    own = ahead == 0 and behind == 0 and each.asked.shape == each.ids.shape
    if own or _has_labels(experiment, each) or not _in_order(each, behind, felt):
        return False
    middle = each.asked.shape[1] // 2
    moved, place = felt(middle), middle - ahead
    if moved is None or not 0 <= place < len(moved) or not bool(moved[place]):
        return False
    return ahead + behind == 0 or _tell_the_next(experiment, each.key)


def _has_labels(experiment: Experiment, each: Wanted) -> bool:
    known = [experiment.tensors.get(one.key) for one in experiment.layout.labels]
    return any(one is not None and one.shape == each.ids.shape for one in known)


def _in_order(each: Wanted, behind: int, felt: Felt) -> bool:
    """Whether nothing is read that stands later: but for a start that was cut off the ids.

    Then outputs are fewer than ids, and none reads the first.
    """
    cut = each.ids.shape[1] - each.asked.shape[1]
    if behind < 0:
        first = felt(0) if 0 < cut == -behind else None
        if first is None or bool(first.any()):
            return False
    at = each.asked.shape[1] // 2 + 1
    after = felt(at)
    return after is not None and bool(after.any()) and int(after.nonzero()[0]) == at + behind


def _tell_the_next(experiment: Experiment, key: str) -> bool:
    """Whether an id goes with the one before it: whether pairs recur more often than by chance."""
    pairs = [_pairs(batch[key]) for batch in looked(experiment) if key in batch]
    one, two = torch.cat(pairs, 1) if pairs else torch.empty(2, 0, dtype=torch.long, device="cpu")
    if len(one) < FEWEST:
        return True  # too few to tell
    chance, count = torch.Generator().manual_seed(0), int(two.max()) + 1
    by_chance = torch.tensor(
        [
            _recur(one, two[torch.randperm(len(two), generator=chance, device="cpu")], count)
            for _ in range(SHUFFLES)
        ],
        device="cpu",
    )
    spread = max(float(by_chance.std()), 1.0)
    return _recur(one, two, count) - float(by_chance.mean()) > CLEAR * spread


def _pairs(ids: Tensor) -> Tensor:
    """(2, pair): neighbours within a row, none of them padding."""
    held = ids.detach().cpu().long()
    pads = at_either_end(held)
    real = torch.ones_like(held, dtype=torch.bool) if pads is None else ~pads
    both = real[:, :-1] & real[:, 1:]
    return torch.stack([held[:, :-1][both], held[:, 1:][both]])


def _recur(one: Tensor, two: Tensor, count: int) -> float:
    """How many pairs of places hold the same two neighbours."""
    times = (one * count + two).unique(return_counts=True)[1].double()
    return float((times * (times - 1) / 2).sum())
