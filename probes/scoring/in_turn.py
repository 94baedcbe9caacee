"""The batch turned by one sample: whether what is given turns with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.batch import take
from probes.compare import NOISES, gap, scale
from probes.execution import Ran
from probes.experiment import Experiment
from probes.masking.hidden import Hidden


@dataclass(frozen=True, slots=True)
class Unturned:
    """An output that does not turn with the batch, at one of its samples by more than a limit."""

    name: str
    sample: int
    largest: float
    limit: float


def turned_by_one(size: int) -> list[int]:
    """Which sample stands where in the batch that is turned."""
    return [*range(1, size), 0]


def unturned(experiment: Experiment) -> Unturned | None:
    """The first output that does not turn with the batch, where visible; None where all do.

    Raises ExperimentError where the turned batch cannot be run.
    """
    order = turned_by_one(experiment.size)
    ran = experiment.evaluate(take(experiment.batch, order, experiment.layout))
    if not is_alike(experiment, ran):
        return None
    limit = max(experiment.evaluated.ran.rounding, ran.rounding)
    for name, axis in experiment.sample_axis.items():
        value = experiment.outputs[name]
        before = value.index_select(axis, torch.tensor(order, device=value.device))
        look = visible(experiment, name, before, order)
        if look is None:
            continue
        largest, at = gap(before, ran.outputs[name], look.expand(before.shape))
        allowed = max(NOISES * experiment.evaluated.noise, limit * scale(before, look))
        if largest > allowed:
            return Unturned(name, order[at[axis]], largest, allowed)
    return None


def is_alike(experiment: Experiment, ran: Ran) -> bool:
    """Whether the outputs that are looked at have the shapes that they had."""
    return all(
        name in ran.outputs and ran.outputs[name].shape == experiment.outputs[name].shape
        for name in experiment.sample_axis
    )


def visible(
    experiment: Experiment, name: str, value: Tensor, order: Sequence[int]
) -> Tensor | None:
    """Where every mask lets see the output, the masks' rows in this order."""
    look = torch.ones((), dtype=torch.bool, device=value.device)
    for each in experiment.masks:
        turned = Hidden(each.mask, each.key, each.keep[list(order)], each.axes, each.guessed)
        seen = turned.over(tuple(value.shape), experiment.layout.axes.get(name))
        look = look if seen is None else look & seen
    return look
