"""Where a recurrence forgets what came before, against flags of where episodes begin or end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.batch import map_leaves
from probes.compare import NOISES
from probes.experiment import Experiment
from probes.reading.rows import looked
from probes.reading.time_first import carries_on, time_first
from probes.states.episode_ends import marks_beginnings, marks_ends
from probes.vary import vary

ROWS = 16  # that must begin alike, so that it is no chance
PLACES = 4  # of a row at least
TRIED = 6  # places behind which it is looked what is still remembered
SIDES = {"after": (0, True), "before": (2, True), "inverted": (1, False)}
"""Which flag, from the last place that is forgotten on, and whether all is forgotten by it."""


@dataclass(frozen=True, slots=True)
class Begins:
    """A key of two values, (sample, place), that says where episodes begin.

    flags: where episodes begin. value: what the key holds there; or, where it marks ends, at the
    step before, such that the first step of a row is left out. turned: the batch has the places
    first, (place, sample).
    """

    key: str
    value: float
    flags: Tensor
    ends: bool = False
    turned: bool = False


@dataclass(frozen=True, slots=True)
class Cleared:
    """What is remembered ends beside where episodes begin: after their first step, or one before.

    Or it ends at all other steps, which is `inverted`. ends: boundaries where it ends as said, and
    not where the flags say. kept: boundaries where the flags say that it ends, and an output moves
    with what was before. sample, place: of one of these, the flagged place.
    """

    begins: Begins
    side: str
    ends: int
    kept: int
    sample: int
    place: int


def begins(experiment: Experiment) -> list[Begins]:
    """Keys that can only mark beginnings, or only ends.

    Beginnings: their first place is flagged in all rows of the data. Ends: it is in none, and the
    steps behind a flagged one are what rows begin with. Places are looked for on the second axis,
    and else on the first, where that is read in order.
    """
    left = {*experiment.targets, *(each.key for each in experiment.masks)}
    two = {
        key: tensor
        for key, tensor in experiment.tensors.items()
        if tensor.ndim == 2 and key not in left and len(torch.unique(tensor)) == 2
    }
    found = list(_begins(experiment, two, turned=False))
    if found:
        return found
    turned = list(_begins(experiment, two, turned=True))
    in_order = turned and time_first(experiment) is not None and carries_on(experiment)
    return turned if in_order else []


def _begins(experiment: Experiment, two: Mapping[str, Tensor], turned: bool) -> Iterator[Begins]:
    def rows(tensor: Tensor) -> Tensor:
        return tensor.T if turned else tensor

    given = {key: rows(tensor) for key, tensor in two.items() if rows(tensor).shape[1] >= PLACES}
    firsts: dict[str, list[Tensor]] = {key: [] for key in given}
    for batch in looked(experiment) if given else ():
        for key, found in firsts.items():
            found += [rows(batch[key])] if key in batch and batch[key].ndim == 2 else []
    for key, found in firsts.items():
        value, tensor = given[key][0, 0], given[key]
        alike = all(bool((each[:, 0] == value).all()) for each in found)
        if sum(len(each) for each in found) < ROWS or not alike:
            continue
        other = tensor[tensor != value][0]
        if marks_ends(experiment, key, float(other), turned):
            flags = (tensor == other).roll(1, 1)
            flags[:, 0] = False
            yield Begins(key, float(other), flags, ends=True, turned=turned)
        elif not bool((tensor[:, -1] == value).all()):
            yield Begins(key, float(value), tensor == value, turned=turned)


def cleared(experiment: Experiment, flag: Begins) -> Cleared | None:
    """None where nothing is forgotten by the flags, or where they say it.

    What is forgotten at all other steps is told where flagged ones look like beginnings: else a
    flag may say what is to be kept, as one of what is no padding does.
    """
    flags, sides = flag.flags, dict(SIDES)
    ends = kept = 0
    at: tuple[int, int] | None = None
    for last in _boundaries(flags):
        forgets = _forgets(experiment, flag, last)
        if forgets is None:
            return None
        said = flags[:, last + 1]
        sides = {
            side: (ahead, by)
            for side, (ahead, by) in sides.items()
            if torch.equal(forgets, flags[:, last + ahead] == by)
        }
        if not sides:
            return None
        ends += int((forgets & ~said).sum())
        lost = (said & ~forgets).nonzero().flatten().tolist()
        kept += len(lost)
        at = (lost[0], last + 1) if at is None and lost else at
    if at is None or len(sides) != 1:
        return None
    side = next(iter(sides))
    known = flag.ends or side != "inverted"
    if known or marks_beginnings(experiment, flag.key, flag.value, flag.turned):
        return Cleared(flag, side, ends, kept, *at)
    return None


def _boundaries(flags: Tensor) -> list[int]:
    """Places before which and behind which the most samples are flagged otherwise."""
    inner = flags[:, :-2]
    differ = (inner != flags[:, 1:-1]).sum(0) + (flags[:, 2:] != flags[:, 1:-1]).sum(0)
    found: list[int] = differ.argsort(descending=True, stable=True)[:TRIED].tolist()
    return found


def _forgets(experiment: Experiment, flag: Begins, last: int) -> Tensor | None:
    """(sample,) whether no output behind the place moves with what stands up to it."""
    where = torch.zeros(flag.flags.shape, dtype=torch.bool, device=flag.flags.device)
    where[:, : last + 1] = True
    where = where.T if flag.turned else where
    left = {flag.key, *experiment.targets, *(each.key for each in experiment.layout.masks)}
    others: dict[str, Tensor] = {}
    for key, tensor in experiment.tensors.items():
        if key not in left and tensor.shape[:2] == where.shape:
            other = vary(tensor, where)
            others |= {} if other is None else {key: other}
    if not others:
        return None
    batch = map_leaves(experiment.batch, lambda path, leaf: others.get(path, leaf))
    return _still(experiment, experiment.evaluate(batch).outputs, flag, last)


def _still(
    experiment: Experiment, after: Mapping[str, Tensor], flag: Begins, last: int
) -> Tensor | None:
    limit, found = NOISES * experiment.evaluated.noise, None
    shape = flag.flags.T.shape if flag.turned else flag.flags.shape
    for name, axis in experiment.sample_axis.items():
        before, other = experiment.outputs[name], after.get(name)
        fits = axis == 0 and before.shape[:2] == shape and before.is_floating_point()
        if not fits or other is None or other.shape != before.shape:
            continue
        moved = (other - before).abs()
        moved = moved.transpose(0, 1) if flag.turned else moved
        same = (moved[:, last + 1 :] <= limit).flatten(1).all(1)
        found = same if found is None else found & same
    return found
