"""Labels that are given another shape, one-hot or as they are."""

from __future__ import annotations

import torch

from probes.experiment import Experiment, with_leaf
from probes.finding import ExperimentError
from probes.reading.alive import Alive, alive
from probes.reading.indexing import Reshaped
from probes.scoring.targets import varied

CLASSES = 3  # so many or more: of two, other axes are as long


def parts_classes(view: Reshaped) -> bool:
    """Whether a one-hot's classes, its last axis before, stand apart where an axis is as long."""
    classes, out = view.before[-1], view.out.detach()
    if view.before.count(classes) != 1 or classes < CLASSES or out.shape[-1] == classes:
        return False
    if classes not in out.shape or not bool(((out == 0) | (out == 1)).all()):
        return False
    if not bool((out.reshape(view.before).sum(-1) == 1).all()):
        return False
    along = [axis for axis, length in enumerate(out.shape) if length == classes]
    return not any(bool((out.sum(axis) == 1).all()) for axis in along)


def is_of_labels(experiment: Experiment, seen: Alive, view: Reshaped) -> bool:
    """Whether what has no gradient is made from a key of labels: it changes with that alone."""
    which = next(i for i, each in enumerate(seen.views) if each is view)
    for key in experiment.targets:
        tensor = experiment.tensors[key]
        other = varied(tensor, torch.ones_like(tensor, dtype=torch.bool))
        if other is None:
            continue
        try:
            after = alive(experiment, with_leaf(experiment.batch, key, other)).views
        except ExperimentError:
            continue
        same = len(after) == len(seen.views) and after[which].out.shape == view.out.shape
        if same and not torch.equal(after[which].out, view.out):
            return True
    return False
