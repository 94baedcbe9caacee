"""Keys that are read, many in one run: each is changed in a sample of its own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from probes.batch import leaves
from probes.compare import NOISES
from probes.experiment import Experiment, with_leaf
from probes.finding import ExperimentError
from probes.subject import Batch


def seen_apart(experiment: Experiment, changed: Mapping[str, Batch]) -> set[str]:
    """Keys whose change in one sample moves that sample's output; those left out are not known.

    changed: by key, the batch with other values under it. One sample stays as it is; where its
    output moves all the same, samples are not independent, and nothing is known.
    """
    if experiment.size < 3 or not experiment.sample_axis:
        return set()
    found = set[str]()
    for keys in _groups(experiment, changed):
        moved = _moved(experiment, changed, keys)
        control = next(row for row in range(experiment.size) if row not in keys.values())
        if moved is None or moved[control]:
            return set()
        found |= {key for key, row in keys.items() if moved[row]}
    return found


def _groups(experiment: Experiment, changed: Mapping[str, Batch]) -> list[dict[str, int]]:
    """Keys that are changed together, each with its sample; one sample is nobody's."""
    size, labels = experiment.size, {each.key for each in experiment.layout.labels}
    groups: list[dict[str, int]] = []
    for key in changed:
        own = experiment.tensors[key]
        if not own.ndim or len(own) != size or key in labels:
            continue
        rows = _differs(experiment, changed, key).nonzero().flatten().tolist()
        for group in [*groups, {}]:
            free = [row for row in rows if row not in group.values()]
            if free and len(group) < size - 1:
                group[key] = free[0]
                groups += [] if any(group is each for each in groups) else [group]
                break
    return groups


def _differs(experiment: Experiment, changed: Mapping[str, Batch], key: str) -> Tensor:
    """(sample,) where the key's values are others."""
    one, two = experiment.tensors[key], leaves(changed[key])[key]
    same = (one == two) | ((one != one) & (two != two))
    differs: Tensor = ~same.reshape(len(one), -1).all(1)
    return differs


def _moved(
    experiment: Experiment, changed: Mapping[str, Batch], keys: Mapping[str, int]
) -> list[bool] | None:
    """For each sample whether an output of it moved; None where it raised or has other shapes."""
    batch = experiment.batch
    for key, row in keys.items():
        value = experiment.tensors[key].clone()
        value[row] = leaves(changed[key])[key][row]
        batch = with_leaf(batch, key, value)
    try:
        after = experiment.evaluate(batch).outputs
    except ExperimentError:
        return None
    rows = torch.zeros(experiment.size, dtype=torch.bool, device="cpu")
    limit = NOISES * experiment.evaluated.noise
    for name, axis in experiment.sample_axis.items():
        before, now = experiment.outputs[name], after[name]
        if before.shape != now.shape:
            return None
        same = (before == now) | ((before != before) & (now != now))
        gap = torch.where(same, 0.0, (before.double() - now.double()).abs())
        gap = gap.nan_to_num(nan=torch.inf).movedim(axis, 0).reshape(experiment.size, -1)
        rows |= (gap > limit).any(1).cpu()
    return rows.tolist()
