"""Labels that are cut to the length of an output that is coarser than they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from probes.compare import NOISES, gap
from probes.experiment import LOSS, Experiment, with_leaf
from probes.finding import ExperimentError
from probes.layout import Labels
from probes.scoring.targets import varied
from probes.vary import vary

COARSER = 1.5  # labels for each output
LEAST = 4  # outputs


@dataclass(frozen=True)
class Cut:
    """An output of fewer places than a key that it reads from end to end, and than its labels."""

    output: str
    key: str
    outputs: int
    labels: int


def cut_labels(experiment: Experiment, labels: Labels) -> Cut | None:
    """Where just as many first labels are scored as there are outputs, which are spread over all.

    None where labels further on are scored, or where outputs read all of the input at once.
    """
    values = experiment.tensors[labels.key]
    if values.ndim != 2:
        return None
    for name, output in experiment.outputs.items():
        if output.ndim != 3 or len(output) != len(values):
            continue
        for axis in (1, 2):
            count = output.shape[axis]
            if count < LEAST or values.shape[1] < COARSER * count:
                continue
            key = _spread(experiment, name, axis, values)
            if key is not None and _are_cut(experiment, labels, count):
                return Cut(name, key, count, values.shape[1])
    return None


def _are_cut(experiment: Experiment, labels: Labels, count: int) -> bool:
    """Whether the loss moves with the first labels, the last of them too, and with none after."""
    values = experiment.tensors[labels.key]
    places = torch.arange(values.shape[1], device=values.device)
    moved = []
    for where in (places >= count, places == count - 1):
        other = varied(values, where.expand(values.shape))
        if other is None or torch.equal(other, values):
            return False
        ran = experiment.evaluate(with_leaf(experiment.batch, labels.key, other)).outputs
        before = experiment.evaluated.ran.outputs[LOSS]
        moved.append(gap(before, ran[LOSS])[0] > NOISES * experiment.evaluated.noise)
    return moved == [False, True]


def _spread(experiment: Experiment, name: str, axis: int, values: Tensor) -> str | None:
    """The key whose first quarter moves early outputs alone, and whose last one late ones."""
    for key, tensor in experiment.tensors.items():
        if key in experiment.targets or tuple(tensor.shape[:2]) != tuple(values.shape):
            continue
        quarter = tensor.shape[1] // 4
        try:
            early = _reached(experiment, key, name, axis, slice(0, quarter))
            late = _reached(experiment, key, name, axis, slice(tensor.shape[1] - quarter, None))
        except ExperimentError:
            continue
        half = experiment.outputs[name].shape[axis] / 2
        if early and late and max(early) < half <= min(late):
            return key
    return None


def _reached(experiment: Experiment, key: str, name: str, axis: int, part: slice) -> list[int]:
    """The places of the output that move with this part of the key."""
    tensor, before = experiment.tensors[key], experiment.outputs[name]
    where = torch.zeros(tensor.shape[:2], dtype=torch.bool, device=tensor.device)
    where[:, part] = True
    other = vary(tensor, where)
    if other is None:
        return []
    after = experiment.evaluate(with_leaf(experiment.batch, key, other)).outputs.get(name)
    if after is None or after.shape != before.shape:
        return []
    moved = (after - before).abs().movedim(axis, 0).flatten(1).amax(1)
    return [int(i) for i in (moved > 1e-5 * float(before.abs().max())).nonzero().flatten()]
