"""Which class of an output each label stands for, where that is not the number it holds."""

from __future__ import annotations

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.finding import ExperimentError
from probes.layout import Labels
from probes.scoring.answers import scores
from probes.scoring.handed_labels import handed

AGREES = 0.99  # of the places of one label that must be asked for one class
MOST = 0.5  # of the labels that name an output: what they name is what is wanted
NONE = -1  # stands for a label that is asked for nowhere


def named(experiment: Experiment, labels: Labels) -> Tensor | None:
    """The labels as classes of the output that they score; None where they stand for none.

    A key may count from 1 where its loss subtracts 1, or be told classes by a list. Where the
    loss is handed other integers than the key's own, it is the score that is to rise most which
    tells the class, label by label; a label that is scored nowhere becomes `NONE` then. It is the
    key as it is where that is what the loss wants, where nothing is known, and where it is
    declared and no other classes are told; of a key that is not, and whose labels each want
    several classes, nothing is known to be a class.
    """
    values = experiment.tensors[labels.key].long()
    try:
        if any(True for _ in handed(experiment, labels)):
            return values
        found = scores(experiment, labels)
    except ExperimentError:
        return values
    by = labels.shift if found.shift is None else found.shift
    wanted, own = _beside(found.grad.argmin(-1)[found.scored], found.scored, values, by)
    inside = (own >= 0) & (own < found.grad.shape[-1])
    if not len(own):
        return values
    if bool(inside.any()) and float((wanted == own)[inside].float().mean()) >= MOST:
        return values
    told = _told(own, wanted)
    if told is not None:
        return _by(told, values)
    return values if labels in experiment.declared.labels else None


def _beside(wanted: Tensor, scored: Tensor, values: Tensor, by: int) -> tuple[Tensor, Tensor]:
    """The classes that are wanted and the labels that want them, so many places on."""
    places = scored.nonzero()
    on = places.clone()
    on[:, -1] += by if values.ndim > 1 else 0
    there = (on[:, -1] >= 0) & (on[:, -1] < values.shape[-1])
    return wanted[there], values[tuple(on[there].T)]


def _told(own: Tensor, wanted: Tensor) -> dict[int, int] | None:
    """Label to class; None where one label wants several."""
    found: dict[int, int] = {}
    for label in own.unique():
        classes = wanted[own == label]
        most = classes.mode().values
        if float((classes == most).float().mean()) < AGREES:
            return None
        found[int(label)] = int(most)
    return found


def _by(told: dict[int, int], values: Tensor) -> Tensor:
    classes = torch.full_like(values, NONE)
    for label, kind in told.items():
        classes[values == label] = kind
    return classes
