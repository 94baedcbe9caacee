"""Where rows of padding alone, whose attention sees nothing, come to the rows beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.layout import Mask
from probes.line import line
from probes.masking.hidden import Hidden
from probes.place import place
from probes.softmaxes.attended import Attended, Refilled, open_kernels, refilled


@dataclass(frozen=True, slots=True)
class Meeting:
    """site, words: where the rows first change others. key: what holds padding alone there."""

    site: str
    words: str
    key: str
    source: str | None


def meeting(experiment: Experiment, rows: Sequence[Attended]) -> Meeting | None:
    """None where the rows are not of padding alone, or come to no other.

    rows: of one module. Raises ExperimentError where the subject raises.
    """
    site = rows[0].site
    padded = next((one for each in rows if (one := _padded(experiment, each))), None)
    if padded is None:
        return None

    def look(_: str, value: Tensor) -> Tensor | None:
        return padded.over(tuple(value.shape))

    found = experiment.evaluated.against(refilled(experiment, site), look, experiment.axes)
    if not found.outputs or found.start is None:
        return None
    model, batch = experiment.subject.model, experiment.batch
    where = place(found, model)
    source = line(
        model,
        found,
        look,
        lambda mode: experiment.evaluate(batch, (open_kernels(), mode)),
        lambda mode: experiment.evaluate(batch, (open_kernels(), Refilled(experiment, site), mode)),
    )
    return Meeting(where.site, where.words, padded.key, source)


def _padded(experiment: Experiment, each: Attended) -> Hidden | None:
    """What hides the rows that see nothing, where they are those of one value alone.

    Beside each of them stands another of its sample that sees something.
    """
    for key, tensor in experiment.tensors.items():
        if tensor.ndim < 3 or len(tensor) != experiment.size:
            continue
        empty = _laid(each.empty, tuple(tensor.shape[:-1]))
        if empty is None or not bool(empty.any()):
            continue
        alone = (tensor == tensor[empty].flatten()[0]).all(-1)
        beside = (~empty).flatten(1).any(1) | ~empty.flatten(1).any(1)
        if torch.equal(alone, empty) and bool(beside.all()):
            mask = Mask(key, (key,), means="id")
            return Hidden(mask, key, ~empty, None, None)
    return None


def _laid(empty: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """(row, head, query) as the shape of rows, where it has as many, heads and queries as one."""
    if empty.numel() == prod(shape):
        return empty.reshape(shape)
    whole = empty.flatten(1).all(1)
    return whole.reshape(shape) if len(whole) == prod(shape) else None
