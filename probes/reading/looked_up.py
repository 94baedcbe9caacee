"""Which keys are looked up in tables that learn, and scored against nothing: ids of what enters."""

from __future__ import annotations

from itertools import chain

import torch

from probes.batch import take
from probes.experiment import Experiment, with_leaf
from probes.finding import ExperimentError
from probes.reading.alive import Alive, alive
from probes.reading.indexing import Pick
from probes.scoring.targets import varied


def is_looked_up(experiment: Experiment, key: str) -> bool:
    """Whether the key's values pick rows of a table that learns, and no answer of a sample.

    The ids of a positive and a negative item are; a class is not, by which the loss picks out of
    a sample's scores or which it is handed. A table does not hang on what the batch holds.
    """
    tensor, order = experiment.tensors[key], [*range(1, experiment.size), 0]
    other = varied(tensor, torch.ones_like(tensor, dtype=torch.bool))
    if other is None:
        return False
    try:
        now = alive(experiment)
        moved = alive(experiment, with_leaf(experiment.batch, key, other))
        turned = alive(experiment, take(experiment.batch, order, experiment.layout))
    except ExperimentError:
        return False
    shapes = {_shapes(each) for each in (now, moved, turned)}
    if len(shapes) != 1 or any(
        not torch.equal(one.labels, two.labels)
        for one, two in zip(now.classed, moved.classed, strict=True)
    ):
        return False
    picks = [
        (one, after)
        for one, two, after in zip(*map(_picks, (now, moved, turned)), strict=True)
        if not torch.equal(one.index, two.index)
    ]
    tables = all(torch.allclose(one.source, after.source) for one, after in picks)
    return tables and any(
        one.axis == 0 and one.source.ndim > 1 and one.source.requires_grad for one, _ in picks
    )


def _picks(seen: Alive) -> list[Pick]:
    return list(chain(seen.looked_up, seen.picks))


def _shapes(seen: Alive) -> tuple[tuple[int, ...], ...]:
    """Of sources, indices and labels: equal where two passes can be compared one by one."""
    return (
        (len(seen.looked_up), len(seen.picks)),
        *(tuple(shape) for each in _picks(seen) for shape in (each.source.shape, each.index.shape)),
        *(tuple(each.labels.shape) for each in seen.classed),
    )
