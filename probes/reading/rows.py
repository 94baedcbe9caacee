"""What the first batches of a subject hold, and which of their keys the model reads."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from probes.batch import leaves, sample_count
from probes.compare import NOISES, gap
from probes.experiment import LOSS, Experiment, with_leaf
from probes.finding import ExperimentError
from probes.guess import LENGTH
from probes.modules import every_module
from probes.scoring.behind_ids import read_behind_ids
from probes.scoring.targets import varied
from probes.vary import vary

BATCHES = 32
ROWS = 4096


def looked(experiment: Experiment) -> Iterator[dict[str, Tensor]]:
    """The tensors of the first batches, whole, by path; no more once there are rows enough."""
    rows = 0
    for batch in islice(experiment.subject.batches, BATCHES):
        yield {path: leaf for path, leaf in leaves(batch).items() if isinstance(leaf, Tensor)}
        rows += sample_count(batch, experiment.layout) or 1
        if rows >= ROWS:
            return


def is_read(experiment: Experiment, key: str, where: Tensor | None = None) -> bool:
    """Whether an output moves with other values of the key; where: boolean, of the key's shape.

    Of outputs that are ids alone: or the loss, and what the ids are made of.
    """
    tensor = experiment.tensors[key]
    all_of_it = torch.ones_like(tensor, dtype=torch.bool)
    other = vary(tensor, all_of_it if where is None else where)
    if other is None:
        return False
    batch = with_leaf(experiment.batch, key, other)
    try:
        ran = experiment.evaluate(batch).outputs
    except ExperimentError:
        return True
    limit, before = NOISES * experiment.evaluated.noise, experiment.evaluated.ran.outputs
    moved = {n for n, value in before.items() if n not in ran or gap(value, ran[n])[0] > limit}
    return bool(moved - {LOSS}) or (bool(moved) and read_behind_ids(experiment, batch))


def reader(experiment: Experiment, key: str) -> str | None:
    """The first module with weights of its own whose output moves with the key, if any."""
    tensor, root = experiment.tensors[key], next(every_module(experiment.subject.model))[0]
    other = varied(tensor, torch.ones_like(tensor, dtype=torch.bool))
    if other is None:
        return None
    try:
        ran = experiment.evaluate(with_leaf(experiment.batch, key, other))
    except ExperimentError:
        return None
    heavy = {
        name
        for name, module in every_module(experiment.subject.model)
        if name != root and any(True for _ in module.parameters(recurse=False))
    }
    sites = experiment.evaluated.against(ran).sites
    return next((one.module for one in sites if one.module in heavy), None)


def classes(experiment: Experiment) -> Iterator[str]:
    """Keys of one class a sample that the loss alone looks at."""
    for key in experiment.targets:
        tensor = experiment.tensors[key]
        flat = tensor.ndim == 1 or (tensor.ndim == 2 and tensor.shape[1] == 1)
        whole = not tensor.is_floating_point() or bool(((tensor == 0) | (tensor == 1)).all())
        if flat and whole and not tensor.is_complex() and not LENGTH.search(key):
            yield key
