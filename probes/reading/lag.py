"""How far behind its label an output has read, where a prefix stands before the ids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.experiment import Experiment, with_leaf
from probes.finding import ExperimentError
from probes.reading.alive import Shown, alive
from probes.scoring.answers import SMALL
from probes.scoring.wanted import SHARE
from probes.vary import vary

LEAST = 4  # ids of a sample


@dataclass(frozen=True)
class Lag:
    """The id at p of a key is scored against the output at p + place, as it should be at p + right.

    outputs, ids: how many places there are of each.
    """

    key: str
    place: int
    right: int
    outputs: int
    ids: int

    @property
    def lag(self) -> int:
        """How many places before its label the last id that was read stands; 1 is right."""
        return self.right - self.place + 1


def lags(experiment: Experiment) -> list[Lag]:
    """Of every key of ids that causal outputs of more places are asked for."""
    if "lags" not in experiment.memo:
        experiment.memo["lags"] = list(_all(experiment))
    found: list[Lag] = experiment.memo["lags"]
    return found


def _all(experiment: Experiment) -> Iterator[Lag]:
    for key, ids in experiment.tensors.items():
        plain = ids.ndim == 2 and not ids.is_floating_point() and ids.dtype is not torch.bool
        if not plain or len(ids) != experiment.size or ids.shape[1] < LEAST:
            continue
        try:
            given = alive(experiment).given
        except ExperimentError:
            return
        found = [_of(experiment, key, ids, each) for each in given if _is_longer(each, ids)]
        known = [each for each in found if each is not None]
        if any(each.lag == 1 for each in known):  # others look further ahead
            known = [each for each in known if each.lag == 1]
        yield from known


def _is_longer(each: Shown, ids: Tensor) -> bool:
    shape = tuple(each.tensor.shape)
    fits = len(shape) == 3 and shape[0] == len(ids) and shape[1] > ids.shape[1]
    return fits and shape[2] > max(2, int(ids.max()))


def _of(experiment: Experiment, key: str, ids: Tensor, shown: Shown) -> Lag | None:
    grad = alive(experiment).of_loss([shown.tensor])[0]
    if grad is None or not bool(grad.any()):
        return None
    place, first = _asked(grad, ids), _read(experiment, key, ids, shown)
    if place is None or first is None:
        return None
    return Lag(key, place, first - 1, shown.tensor.shape[1], ids.shape[1])


def _asked(grad: Tensor, ids: Tensor) -> int | None:
    """How many places after an id the output stands that is asked for it; None where not clear."""
    size = grad.abs().amax(-1)
    looked, asked, count = size > SMALL * size.max(), grad.argmin(-1), ids.shape[1]
    found = []
    for by in range(1 - count, grad.shape[1]):
        low, high = max(0, by), min(grad.shape[1], count + by)
        inner = looked[:, low:high]
        whole = int(inner.sum()) == int(looked.sum())
        same = (asked[:, low:high] == ids[:, low - by : high - by])[inner]
        if whole and len(same) > len(ids) and float(same.float().mean()) >= SHARE:
            found.append(by)
    return found[0] if len(found) == 1 else None


def _read(experiment: Experiment, key: str, ids: Tensor, shown: Shown) -> int | None:
    """How many places after an id the first output stands that reads it; None if not causal."""
    seen = alive(experiment).given.index(shown)
    found: set[int | None] = set()
    for at in (ids.shape[1] // 2, ids.shape[1] - 2):
        only = torch.zeros_like(ids, dtype=torch.bool)
        only[:, at] = True
        other = vary(ids, only)
        if other is None:
            return None
        after = alive(experiment, with_leaf(experiment.batch, key, other)).given
        if len(after) <= seen or after[seen].tensor.shape != shown.tensor.shape:
            return None
        moved = (after[seen].tensor - shown.tensor).detach().abs().amax((0, 2))
        places = (moved > 1e-5 * float(shown.tensor.detach().abs().max())).nonzero().flatten()
        found |= {int(places[0]) - at} if len(places) else {None}
    first = found.pop()
    return first if not found and first is not None and first > -ids.shape[1] // 2 else None
