"""Outputs that read what they are scored against by a number of the whole window, and else not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.compare import NOISES, gap
from probes.experiment import Experiment, with_leaf
from probes.finding import ExperimentError
from probes.operators.over_places import OverPlaces, Windows
from probes.reading.alive import Alive, alive, gradients
from probes.scoring.fed_target import by_place
from probes.scoring.numbers_ahead import beside_outputs, name_of
from probes.vary import vary

SAME = 1e-3  # of the largest gradient: two that differ by less are one
NONE = 1e-6  # of the largest gradient: less is none


@dataclass(frozen=True, slots=True)
class Windowed:
    """An output scored against places of a key from `first` on, one after the other.

    It reads its own place and later ones by a number over the window, whose reduction is called
    `name`, and nothing of them where that is held. relative, largest, limit: what other numbers at
    the scored places come to at the output's first one.
    """

    output: str
    key: str
    first: int
    name: str
    site: str
    source: str | None
    relative: float
    largest: float
    limit: float


@dataclass(frozen=True, slots=True, eq=False)
class _Scored:
    """Which of the outputs that the model gave is scored against a key, and from which place on."""

    index: int
    tensor: Tensor
    first: int

    @property
    def looked(self) -> tuple[int, ...]:
        """Places of the output that are asked: the first, and one half way."""
        return (0, self.tensor.shape[1] // 2)

    def read(self, tensor: Tensor, leaf: Tensor, place: int) -> tuple[bool, bool]:
        """Whether a place of such a tensor reads of the key what is before, and own and later."""
        found = gradients(_weighed(tensor, place), [leaf])[0]
        if found is None:
            return False, False
        felt = found.abs().reshape(*found.shape[:2], -1).amax((0, 2))
        felt = felt > NONE * felt.max()
        own = self.first + place
        return bool(felt[:own].any()), bool(felt[own:].any())


def windowed(experiment: Experiment) -> list[Windowed]:
    """One of each key of numbers, where there is any.

    An output is scored against the numbers as they are, and not as they are normalised. Its
    places read them before their own, and from there on by nothing but a number over the window
    that no parameter takes part in, and that is taken together with the numbers themselves, as
    what they are divided by. What reads its own place or later ones anyhow, as an autoencoder or
    what fills in, is none; nor is what tells of the whole by way of parameters.
    """
    if "whole window" not in experiment.memo:
        experiment.memo["whole window"] = list(_all(experiment))
    found: list[Windowed] = experiment.memo["whole window"]
    return found


def _all(experiment: Experiment) -> Iterator[Windowed]:
    for key in by_place(experiment):
        tensor = experiment.tensors[key]
        fits = any(_is_of(value, tensor) for value in experiment.outputs.values())
        if not tensor.is_floating_point() or not fits:
            continue
        try:
            found = _windowed(experiment, key)
        except ExperimentError:
            continue
        if found is not None:
            yield found


def _is_of(value: Tensor, wanted: Tensor) -> bool:
    """Whether it has places, no more than are wanted, and as many numbers each, or several."""
    if value.ndim not in (2, 3) or len(value) != len(wanted) or not value.is_floating_point():
        return False
    if not 1 < value.shape[1] <= wanted.shape[1]:
        return False
    return value.shape[2:] == wanted.shape[2:] or (value.ndim == 3 and wanted.ndim == 2)


def _windowed(experiment: Experiment, key: str) -> Windowed | None:
    seen, leaf, windows = _passed(experiment, key, holds=False)
    if not any(each.meets for each in windows.found):
        return None
    scored = _scored(seen, leaf)
    name = None if scored is None else name_of(experiment, scored.tensor)
    if scored is None or name is None:
        return None
    if not scored.read(scored.tensor, leaf, 0)[1]:
        return None
    held, constant, _ = _passed(experiment, key, holds=True)
    if len(held.given) != len(seen.given):
        return None
    there = held.given[scored.index].tensor
    read = [scored.read(there, constant, place) for place in scored.looked]
    if any(later for _, later in read) or not read[-1][0]:
        return None
    by = next((each for each in windows.found if each.meets and _is_by(each, scored, leaf)), None)
    change = None if by is None else _change(experiment, key, name, scored.first)
    if by is None or change is None:
        return None
    return Windowed(name, key, scored.first, by.name, by.site or "<loss>", by.source, *change)


def _passed(experiment: Experiment, key: str, holds: bool) -> tuple[Alive, Tensor, Windows]:
    """The loss with all that led to it, the numbers of the key, and what is reduced of these."""
    leaf = experiment.tensors[key].detach().clone().requires_grad_(True)
    windows = Windows(experiment.subject.model, leaf, holds)
    batch = with_leaf(experiment.batch, key, leaf)
    return alive(experiment, batch, picks=False, within=(windows,)), leaf, windows


def _scored(seen: Alive, leaf: Tensor) -> _Scored | None:
    """By the loss's gradient with respect to the numbers that does not come by way of outputs.

    It is an output's own, turned round, from some place on, and nothing beside.
    """
    own, known = beside_outputs(seen, leaf)
    if own is None:
        return None
    for tensor, grad in known:
        if not _is_of(tensor, leaf):
            continue
        parts = [grad] if grad.shape[2:] == leaf.shape[2:] else [*grad.unbind(-1), grad.sum(-1)]
        for part in parts:
            first = _first(own, part)
            if first is not None:
                index = next(i for i, each in enumerate(seen.given) if each.tensor is tensor)
                return _Scored(index, tensor, first)
    return None


def _first(own: Tensor, part: Tensor) -> int | None:
    """The place at which the one, turned round, begins in the other, which is nothing else."""
    places = [
        each.abs().reshape(*each.shape[:2], -1).amax((0, 2)).nonzero() for each in (own, part)
    ]
    if not all(len(each) for each in places):
        return None
    first = int(places[0][0]) - int(places[1][0])
    if not 0 <= first <= own.shape[1] - part.shape[1]:
        return None
    moved = torch.zeros_like(own)
    moved[:, first : first + part.shape[1]] = -part
    return first if bool(((own - moved).abs() <= SAME * own.abs().max()).all()) else None


def _weighed(tensor: Tensor, place: int) -> Tensor:
    """A sum of what stands at the place, each number weighed otherwise."""
    row = tensor[:, place]
    weights = torch.linspace(0.5, 1.5, row.numel(), dtype=row.dtype, device=row.device)
    return (row * weights.view_as(row)).sum()


def _is_by(each: OverPlaces, scored: _Scored, leaf: Tensor) -> bool:
    """Whether what the output's first place reads from its own on comes by way of this."""
    grads = gradients(_weighed(scored.tensor, 0), each.values)
    known = [(one, two) for one, two in zip(each.values, grads, strict=True) if two is not None]
    if not known:
        return False
    way = gradients(torch.stack([(one * two).sum() for one, two in known]).sum(), [leaf])[0]
    return way is not None and bool(way[:, scored.first :].any())


def _change(
    experiment: Experiment, key: str, name: str, first: int
) -> tuple[float, float, float] | None:
    """What other numbers at the scored places come to at the output's first one, where they do."""
    tensor = experiment.tensors[key]
    where = torch.zeros(tensor.shape[:2], dtype=torch.bool, device=tensor.device)
    where[:, first:] = True
    other = vary(tensor, where)
    if other is None:
        return None
    after = experiment.evaluate(with_leaf(experiment.batch, key, other)).outputs.get(name)
    before = experiment.outputs[name]
    if after is None or after.shape != before.shape:
        return None
    largest = gap(before[:, 0], after[:, 0])[0]
    limit = NOISES * experiment.evaluated.noise + 1e-5 * float(before.abs().max())
    size = float(before[:, 0].abs().max())
    return (largest / max(size, 1e-12), largest, limit) if largest > limit else None
