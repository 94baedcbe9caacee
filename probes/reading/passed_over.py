"""Why a key has no effect: a state that is not handed on, a twin that is read in its place."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from probes.bus import Kind
from probes.compare import Difference
from probes.experiment import Experiment
from probes.finding import ExperimentError
from probes.reading.alive import alive
from probes.reading.indexing import Pick
from probes.states.recurrence import Recurrent


def starts_from_zero(experiment: Experiment) -> bool:
    """Whether any weights, biases apart, are nothing but zeros."""
    named = experiment.subject.model.named_parameters()
    return any(p.numel() and not bool(p.any()) for name, p in named if "bias" not in name)


def forgotten(
    experiment: Experiment, key: str, sites: Callable[[], Sequence[Difference]]
) -> Recurrent | None:
    """The recurrent layer one call of which reads the key, and whose next call does not.

    sites: those that the key, which has no effect, does move.
    """
    several = [
        each
        for each in experiment.recurrent
        if isinstance(each.module, nn.RNNBase) and not each.is_step and len(each.calls) > 1
    ]
    hidden = any(mask.key == key and not bool(mask.keep.all()) for mask in experiment.masks)
    if hidden or not several or starts_from_zero(experiment):
        return None
    moved = sites()
    outputs = [each for each in experiment.evaluated.ran.events if each.kind is Kind.OUTPUT]
    for each in several:
        own = [one for one in moved if one.module == each.site and one.kind is Kind.OUTPUT]
        read = {one.call for one in own if one.site == own[0].site}
        every = sum(event.site == own[0].site for event in outputs) if own else 0
        if 0 in read and len(read) < every:
            return each
    return None


def read_twice(experiment: Experiment, key: str) -> tuple[str, Pick] | None:
    """The key of the same kind that is looked up twice in one tensor, with the second time."""
    index = experiment.tensors[key]
    twins = [name for name, t in experiment.tensors.items() if _is_twin(key, index, name, t)]
    if not twins:
        return None
    try:
        picks = alive(experiment).picks
    except ExperimentError:
        return None
    for name in twins:
        found = [pick for pick in picks if _picks(pick, experiment.tensors[name])]
        for one, two in combinations(found, 2):
            if one.source is two.source and int(index.max()) < one.source.shape[one.axis]:
                return name, two
    return None


def _is_twin(key: str, index: Tensor, name: str, other: Tensor) -> bool:
    whole = not index.is_floating_point() and index.dtype is not torch.bool and index.ndim > 0
    alike = whole and index.shape == other.shape and index.dtype == other.dtype
    if not alike or key == name or bool((index < 0).any()) or torch.equal(index, other):
        return False
    one, two = (re.findall(r"[a-z]+|\d+", each.lower()) for each in (key, name))
    return len(one) == len(two) > 1 and bool(set(one) & set(two))


def _picks(pick: Pick, index: Tensor) -> bool:
    """Whether the positions are those of the key, whatever else is picked along with them."""
    if len(pick.index) != len(index) if pick.index.ndim else True:
        return False
    rows = index.reshape(len(index), -1)
    flat = pick.index.reshape(len(index), -1)
    return flat.shape[1] % rows.shape[1] == 0 and bool(
        (flat == rows.repeat_interleave(flat.shape[1] // rows.shape[1], 1)).all()
    )
