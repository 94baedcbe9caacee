"""Where a recurrence forgets what came before, beside flags of where episodes begin or end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.batch import map_leaves
from probes.compare import NOISES
from probes.experiment import Experiment
from probes.reading.rows import looked
from probes.states.episode_ends import marks_ends
from probes.vary import vary

ROWS = 16  # that must begin alike, so that it is no chance
PLACES = 4  # of a row at least
TRIED = 6  # places behind which it is looked what is still remembered
BESIDE = {"after": 0, "before": 2}  # which flag, from the last place that is forgotten on


@dataclass(frozen=True, slots=True)
class Begins:
    """A key of two values, (sample, place), that says where episodes begin.

    flags: where episodes begin. value: what the key holds there; or, where it marks ends, at the
    step before, such that the first step of a row is left out.
    """

    key: str
    value: float
    flags: Tensor
    ends: bool = False


@dataclass(frozen=True, slots=True)
class Cleared:
    """What is remembered ends beside where episodes begin: after their first step, or one before.

    ends: boundaries where it ends as said, and not where the flags say. kept: boundaries where
    the flags say that it ends, and an output moves with what was before. sample, place: of one of
    these, the flagged place.
    """

    begins: Begins
    side: str
    ends: int
    kept: int
    sample: int
    place: int


def begins(experiment: Experiment) -> Iterator[Begins]:
    """Keys that can only mark beginnings, or only ends.

    Beginnings: their first place is flagged in all rows of the data. Ends: it is in none, and the
    steps behind a flagged one are what rows begin with.
    """
    left = {*experiment.targets, *(each.key for each in experiment.masks)}
    keys = {
        key: tensor
        for key, tensor in experiment.tensors.items()
        if tensor.ndim == 2 and tensor.shape[1] >= PLACES and key not in left
    }
    two = {key: t for key, t in keys.items() if len(torch.unique(t)) == 2}
    if not two:
        return
    firsts: dict[str, list[Tensor]] = {key: [] for key in two}
    for batch in looked(experiment):
        for key, found in firsts.items():
            found += [batch[key]] if key in batch and batch[key].ndim == 2 else []
    for key, found in firsts.items():
        value = two[key][0, 0]
        rows = sum(len(each) for each in found)
        alike = all(bool((each[:, 0] == value).all()) for each in found)
        if rows < ROWS or not alike:
            continue
        other = two[key][two[key] != value][0]
        if marks_ends(experiment, key, float(other)):
            flags = (two[key] == other).roll(1, 1)
            flags[:, 0] = False
            yield Begins(key, float(other), flags, ends=True)
        elif not bool((two[key][:, -1] == value).all()):
            yield Begins(key, float(value), two[key] == value)


def cleared(experiment: Experiment, flag: Begins) -> Cleared | None:
    """None where nothing is forgotten by the flags, or where they say it."""
    flags, sides = flag.flags, dict(BESIDE)
    ends = kept = 0
    at: tuple[int, int] | None = None
    for last in _boundaries(flags):
        forgets = _forgets(experiment, flag, last)
        if forgets is None:
            return None
        said = flags[:, last + 1]
        sides = {
            side: ahead
            for side, ahead in sides.items()
            if torch.equal(forgets, flags[:, last + ahead])
        }
        if not sides:
            return None
        ends += int((forgets & ~said).sum())
        lost = (said & ~forgets).nonzero().flatten().tolist()
        kept += len(lost)
        at = (lost[0], last + 1) if at is None and lost else at
    if at is None or len(sides) != 1:
        return None
    return Cleared(flag, next(iter(sides)), ends, kept, *at)


def _boundaries(flags: Tensor) -> list[int]:
    """Places before which and behind which the most samples are flagged otherwise."""
    inner = flags[:, :-2]
    differ = (inner != flags[:, 1:-1]).sum(0) + (flags[:, 2:] != flags[:, 1:-1]).sum(0)
    found: list[int] = differ.argsort(descending=True, stable=True)[:TRIED].tolist()
    return found


def _forgets(experiment: Experiment, flag: Begins, last: int) -> Tensor | None:
    """(sample,) whether no output behind the place moves with what stands up to it."""
    shape = tuple(flag.flags.shape)
    where = torch.zeros(shape, dtype=torch.bool, device=flag.flags.device)
    where[:, : last + 1] = True
    left = {flag.key, *experiment.targets, *(each.key for each in experiment.layout.masks)}
    others: dict[str, Tensor] = {}
    for key, tensor in experiment.tensors.items():
        if key not in left and tuple(tensor.shape[:2]) == shape:
            other = vary(tensor, where)
            others |= {} if other is None else {key: other}
    if not others:
        return None
    batch = map_leaves(experiment.batch, lambda path, leaf: others.get(path, leaf))
    return _still(experiment, experiment.evaluate(batch).outputs, shape, last)


def _still(
    experiment: Experiment, after: Mapping[str, Tensor], shape: tuple[int, ...], last: int
) -> Tensor | None:
    limit, found = NOISES * experiment.evaluated.noise, None
    for name, axis in experiment.sample_axis.items():
        before, other = experiment.outputs[name], after.get(name)
        fits = axis == 0 and tuple(before.shape[:2]) == shape and before.is_floating_point()
        if not fits or other is None or other.shape != before.shape:
            continue
        same = ((other - before)[:, last + 1 :].abs() <= limit).flatten(1).all(1)
        found = same if found is None else found & same
    return found
