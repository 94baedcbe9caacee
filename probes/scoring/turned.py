"""Labels of a sample that are scored in another order than its inputs stand in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from probes.experiment import Experiment, with_leaf
from probes.finding import ExperimentError
from probes.reading.alive import alive
from probes.scoring.answers import Place, Scores, lines_of
from probes.vary import vary

Shape = tuple[int, ...]
LEAST = 3.0  # times as much as another place's that an own place's change is
FEW = 0.1  # of the largest change, which another place's must not exceed


def turned(experiment: Experiment, found: Scores, shape: Shape) -> str | None:
    """How the labels of a sample lie against its outputs, in words; None where they lie well.

    Only where each label tried has one output, in its own sample, some elsewhere and by no shift;
    and where inputs at the labels' places move the outputs at the same places most.
    """
    answers = [each for each in found.answers if each.outputs]
    pairs = [(each.label, each.outputs[0]) for each in answers]
    if len(shape) < 2 or len(pairs) < 2 or any(len(each.outputs) != 1 for each in answers):
        return None
    away = [(one, two) for one, two in pairs if one != two]
    steps = {tuple(b - a for a, b in zip(one, two, strict=True)) for one, two in pairs}
    if len(away) < 2 or len(steps) < 2 or any(one[0] != two[0] for one, two in pairs):
        return None
    own = sum(_is_at_home(experiment, found, label, output, shape) for label, output in away)
    if own * 3 < len(away) * 2:
        return None
    return f"the labels of a sample are {_order(pairs, shape)} against its outputs"


def _order(pairs: Sequence[tuple[Place, Place]], shape: Shape) -> str:
    inner = [(one[1:], two[1:]) for one, two in pairs]
    if len(shape) == 3 and all(one[::-1] == two for one, two in inner):
        return "transposed"
    for axis in range(1, len(shape)):
        far = shape[axis] - 1
        if all(two == (*one[: axis - 1], far - one[axis - 1], *one[axis:]) for one, two in inner):
            return f"reversed along axis {axis}"
    return "in another order"


def _is_at_home(
    experiment: Experiment, found: Scores, label: Place, output: Place, shape: Shape
) -> bool:
    """Whether the input at the label's place moves the output there, and not the other one."""
    moved = _moved(experiment, found, label, shape)
    if moved is None or not bool(moved.any()):
        return False
    own, other = float(moved[label[1:]]), float(moved[output[1:]])
    return own > LEAST * other and other <= FEW * float(moved.max())


def _moved(experiment: Experiment, found: Scores, place: Place, shape: Shape) -> Tensor | None:
    """(place, ...) how much each scored output of the sample moves with the input at this place."""
    before = lines_of(found.shown.tensor, shape, found.first)
    for key, tensor in experiment.tensors.items():
        where = None if key in experiment.targets else _at(tensor, place, shape)
        other = None if where is None else vary(tensor, where)
        if other is None or before is None:
            continue
        try:
            after = alive(experiment, with_leaf(experiment.batch, key, other)).shown
        except ExperimentError:
            continue
        lines = (
            lines_of(after[found.index].tensor, shape, found.first)
            if len(after) > found.index
            else None
        )
        if lines is not None and lines.shape == before.shape:
            moved = (lines - before).detach().double().abs().nan_to_num()
            return moved.sum(-1)[place[0]].cpu()
    return None


def _at(tensor: Tensor, place: Place, shape: Shape) -> Tensor | None:
    """True at the place, over (sample, place, ...) or (sample, channel, place, ...)."""
    only = torch.zeros(tensor.shape, dtype=torch.bool, device=tensor.device)
    if tuple(tensor.shape[: len(shape)]) == shape:
        only[place] = True
    elif tensor.ndim == len(shape) + 1 and (len(tensor), *tensor.shape[2:]) == shape:
        only.movedim(1, -1)[place] = True
    else:
        return None
    return only
