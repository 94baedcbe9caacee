"""Which keys only tell the loss what is right: found by changing them, whatever they are called."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from probes.compare import NOISES, gap
from probes.finding import ExperimentError
from probes.scoring.behind_ids import read_behind_ids
from probes.vary import vary

if TYPE_CHECKING:
    from probes.experiment import Experiment

NAMES = ("label", "target", "gold")


def targets(experiment: Experiment, *lengths: int) -> Iterator[str]:
    """Keys that hold labels: declared, guessed, or found to move the loss and no output.

    lengths: of the keys that may be found, where it is not the number of samples.
    Where outputs are ids alone, which a small change leaves as they are, nothing that they are
    made of moves either. Masks are none of them; where any are declared, they are all. Where the
    loss or the outputs cannot be had, the known ones only.
    """
    from probes.experiment import LOSS

    known = {each.key for each in experiment.layout.labels}
    masks = {each.key for each in experiment.layout.masks}
    if experiment.declared.labels:
        yield from (key for key in experiment.tensors if key in known)
        return
    outputs = experiment.evaluated.ran.outputs
    seen = LOSS in outputs and any(value.ndim for value in experiment.outputs.values())
    asked = lengths or (experiment.size,)
    for key, tensor in experiment.tensors.items():
        rows = seen and key not in masks and tensor.ndim > 0 and len(tensor) in asked
        if key in known or (rows and _is_target(experiment, key)):
            yield key


def _is_target(experiment: Experiment, key: str) -> bool:
    from probes.experiment import LOSS, with_leaf

    tensor = experiment.tensors[key]
    other = varied(tensor, torch.ones_like(tensor, dtype=torch.bool))
    if other is None or other.dtype is torch.bool:
        return False
    try:
        ran = experiment.evaluate(with_leaf(experiment.batch, key, other)).outputs
    except ExperimentError:
        return any(name in key.lower() for name in NAMES)
    before, limit = experiment.evaluated.ran.outputs, NOISES * experiment.evaluated.noise
    moved = {n for n, value in before.items() if n in ran and gap(value, ran[n])[0] > limit}
    if LOSS not in moved or any(before[name].ndim for name in moved):
        return False
    return not read_behind_ids(experiment, with_leaf(experiment.batch, key, other))


def varied(tensor: Tensor, where: Tensor) -> Tensor | None:
    """Other values, of integers out of those that are no padding; padding below zero stays."""
    if tensor.is_floating_point() or tensor.dtype is torch.bool:
        return vary(tensor, where)
    real = tensor >= 0
    return vary(tensor, where & real, tensor[real]) if bool(real.any()) else None
