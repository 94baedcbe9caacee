"""A number that is to be given and stands among the inputs of its own sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.compare import NOISES, gap
from probes.experiment import LOSS, Experiment, with_leaf
from probes.finding import ExperimentError
from probes.reading.rows import is_read
from probes.vary import vary

LEAST = 8  # samples that it is told by


@dataclass(frozen=True, slots=True)
class Held:
    """Column `column` of an input is the label, to the bit, in every sample looked at.

    last: the column is one of the last place along time, of an input of (sample, time, feature).
    """

    key: str
    label: str
    column: int
    last: bool
    samples: int


def numbers(experiment: Experiment) -> Iterator[str]:
    """Keys that the loss alone looks at, of one number a sample."""
    for key in experiment.targets:
        tensor = experiment.tensors[key]
        if tensor.is_floating_point() and tensor.ndim in (1, 2) and tensor[:1].numel() == 1:
            yield key


def held(experiment: Experiment, batches: Sequence[Mapping[str, Tensor]]) -> Iterator[Held]:
    """At most one a label that the loss scores, where the output reads the column.

    Inputs all of whose columns are labels, as an autoencoder's, are left out.
    """
    labels = list(numbers(experiment))
    for key, tensor in experiment.tensors.items():
        if key in experiment.targets or not tensor.is_floating_point() or tensor.ndim not in (2, 3):
            continue
        each = [one for label in labels if (one := _held(batches, key, label)) is not None]
        if len({one.column for one in each}) == tensor.shape[-1]:
            continue
        yield from (one for one in each if _is_copied(experiment, one))


def _held(batches: Sequence[Mapping[str, Tensor]], key: str, label: str) -> Held | None:
    """The first column that is the label in all batches; None where the label hardly varies."""
    tables, wanted = [], []
    for batch in batches:
        table, own = batch.get(key), batch.get(label)
        if table is None or own is None or len(table) != own.numel() or table.ndim not in (2, 3):
            return None
        tables.append(table[:, -1] if table.ndim == 3 else table)
        wanted.append(own.flatten())
    if not tables or len({table.shape[1] for table in tables}) > 1:
        return None
    values = torch.cat(wanted)
    if len(values) < LEAST or 2 * len(values.unique()) <= len(values):
        return None
    same = (torch.cat(tables) == values[:, None]).all(0).nonzero().flatten().tolist()
    if not same:
        return None
    return Held(key, label, same[0], batches[0][key].ndim == 3, len(values))


def _is_copied(experiment: Experiment, each: Held) -> bool:
    """Whether an output moves with the column, and the loss with the label."""
    tensor, label = experiment.tensors[each.key], experiment.tensors[each.label]
    where = torch.zeros_like(tensor, dtype=torch.bool)
    (where[:, -1] if each.last else where)[:, each.column] = True
    other = vary(label, torch.ones_like(label, dtype=torch.bool))
    before = experiment.evaluated.ran.outputs.get(LOSS)
    if before is None or other is None or not is_read(experiment, each.key, where):
        return False
    try:
        ran = experiment.evaluate(with_leaf(experiment.batch, each.label, other)).outputs
    except ExperimentError:
        return False
    return gap(before, ran[LOSS])[0] > NOISES * experiment.evaluated.noise
