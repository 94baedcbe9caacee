"""Places where a loss asks for what hides them, and not for what is hidden."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.bus import Kind
from probes.experiment import Experiment
from probes.reading.alive import Alive, alive
from probes.reading.rows import is_read
from probes.scoring.answers import SMALL
from probes.scoring.wanted import SHARE, wanted

FEWEST = 4  # places that are written over
NEAR = 0.01  # of how far apart what is read and what could be asked for lie


@dataclass(frozen=True, eq=False)
class Filler:
    """A key that the model reads otherwise where it is scored, and what is asked for is that.

    value: what it reads at all of these places, None where that is not one number. count: how
    many places are scored, and where: of the key's shape. written: at how many of these the batch
    holds something else. others: how many values the batch holds there.
    """

    key: str
    value: float | None
    count: int
    written: int
    others: int
    where: Tensor


@dataclass(frozen=True, eq=False)
class _Read:
    """before: of the batch. read: what a module was given in its place, of the same shape."""

    key: str
    before: Tensor
    read: Tensor

    @property
    def changed(self) -> Tensor:
        """Where it is not what the batch holds."""
        known = (self.before == self.before) | (self.read == self.read)
        return (self.read != self.before) & known

    def spread(self, scored: Tensor) -> float:
        """How far what the batch holds lies from what is read; else how far other places do."""
        written = self.changed & scored
        if bool(written.any()):
            return float((self.read - self.before)[written].double().square().mean().sqrt())
        return float(self.read[~scored].double().std())

    def at(self, scored: Tensor, least: int) -> Filler | None:
        """What is so where all that is scored is asked for what is read there.

        Places that are not scored are read as they are, and hold several values. Either what is
        scored is written over, by half or more; or, where nothing is, it is all one value.
        """
        places, written = self.read[scored], self.changed & scored
        among = int(written.sum())
        if len(self.read[~scored].unique()) < 2 or bool((self.changed & ~scored).any()):
            return None
        held, values = self.before[written].unique(), places.unique()
        if among:
            told = among >= FEWEST and 2 * among >= len(places) and len(held) > 1
        else:
            told = len(places) >= least and len(values) == 1
        value = float(values[0]) if len(values) == 1 else None
        return Filler(self.key, value, len(places), among, len(held), scored) if told else None


def fillers(experiment: Experiment, least: int) -> Iterator[Filler]:
    """At most one a key. least: how many places that hold one value are no chance."""
    seen = alive(experiment)
    for key, before in experiment.tensors.items():
        if before.ndim < 2 or before.dtype is torch.bool or before.is_complex():
            continue
        found = (_filler(experiment, seen, each, least) for each in _reads(seen, key, before))
        told = next((each for each in found if each is not None), None)
        if told is None or (experiment.outputs and not is_read(experiment, key, ~told.where)):
            continue
        yield told


def _reads(seen: Alive, key: str, before: Tensor) -> Iterator[_Read]:
    for each in seen.fed:
        if each.shape == before.shape and each.is_floating_point() == before.is_floating_point():
            yield _Read(key, before, each.to(before.device))


def _filler(experiment: Experiment, seen: Alive, each: _Read, least: int) -> Filler | None:
    if each.before.is_floating_point():
        return _of_numbers(seen, each, least)
    for one in wanted(experiment):
        if one.key != each.key or one.asked.shape != each.read.shape:
            continue
        if bool((one.asked == each.read)[one.scored].all()):
            return each.at(one.scored, least)
    return _of_picked(seen, each, least)


def _of_picked(seen: Alive, each: _Read, least: int) -> Filler | None:
    """The same of scores that were picked at what was written over, one after the other."""
    changed = each.changed
    for call in seen.classed:
        labels = call.labels.flatten()
        whole = bool(call.counted.all()) and len(labels) == int(changed.sum()) >= FEWEST
        if whole and bool((labels == each.read[changed]).all()):
            return each.at(changed, least)
    return None


def _of_numbers(seen: Alive, each: _Read, least: int) -> Filler | None:
    own = {id(one) for one in seen.given}
    shape = each.read.shape
    fits = [s for s in seen.shown if s.kind is Kind.OUTPUT and _is_shape(s.tensor, shape)]
    for shown in sorted(fits, key=lambda s: id(s) in own)[-2:][::-1]:
        grad = seen.of_loss([shown.tensor])[0]
        if grad is None or not bool(grad.any()) or not bool(grad.isfinite().all()):
            continue
        slope, given = grad.reshape(shape), shown.tensor.detach().reshape(shape)
        scored = slope.abs() > SMALL * slope.abs().max()
        found = each.at(scored | (each.changed & (slope != 0)), least)
        if found is not None and _is_asked(each, found, scored, slope, given):
            return found
    return None


def _is_shape(tensor: Tensor, shape: torch.Size) -> bool:
    return tensor.shape in (shape, (*shape, 1)) or (*tensor.shape, 1) == tuple(shape)


def _is_asked(each: _Read, found: Filler, scored: Tensor, slope: Tensor, given: Tensor) -> bool:
    """Whether outputs are drawn towards what is read: by as much as they are far, or each of them.

    The second, of what is written over, where not all are drawn towards what the batch holds.
    """
    grads, far = slope[scored].double(), (given - each.read)[scored].double()
    times = float((grads * far).sum() / (far * far).sum())
    if float((grads - times * far).abs().max()) <= NEAR * times * each.spread(scored):
        return True
    whole = bool((grads * far > 0).all())
    others = (slope * (given - each.before))[each.changed & scored]
    return bool(found.written) and whole and float((others > 0).float().mean()) < SHARE
