"""Outputs and labels laid side by side: what a loss of classes may be made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.layout import Labels


@dataclass(frozen=True)
class Scored:
    """An output's rows with a label each.

    scores: (place, class) float64. labels: (place,) of those that are not ignored. whole: the
    output with its classes last, and keep: (places,) those of its places that are not ignored.
    """

    output: str
    labels_key: str
    scores: Tensor
    labels: Tensor
    whole: Tensor
    keep: Tensor

    @property
    def classes(self) -> int:
        """How many classes the output knows."""
        return self.scores.shape[1]

    @property
    def are_probabilities(self) -> bool:
        """Whether every row is non-negative and sums to 1."""
        sums = self.scores.sum(1)
        return bool((self.scores >= 0).all() and ((sums - 1).abs() < 1e-3).all())

    def stands_for(self, other: Scored) -> bool:
        """Whether it is the same output and the same key, of another batch."""
        return (self.output, self.labels_key) == (other.output, other.labels_key)

    def picked(self, values: Tensor) -> float:
        """The mean of minus the values at the labels."""
        return -float(values.gather(1, self.labels[:, None]).mean())

    def over(self, axis: int) -> Tensor:
        """The log-softmax over another axis than the classes: (place, class)."""
        return self.whole.double().log_softmax(axis).flatten(0, -2)[self.keep]


def scored(experiment: Experiment) -> Iterator[Scored]:
    """Every output of classes with the integers that may be its labels, also shifted by one.

    Labels that are declared or guessed come first, then any key that fits.
    """
    known = {each.key for each in experiment.layout.labels}
    others = [Labels(key, "output") for key in experiment.tensors if key not in known]
    for labels in (*experiment.layout.labels, *others):
        values = experiment.tensors.get(labels.key)
        if values is None or labels.kind != "class" or values.is_floating_point():
            continue
        for name, output in experiment.outputs.items():
            if output.is_floating_point() and output.ndim > 1:
                yield from _pairs(labels, values.long(), name, output)


def _pairs(labels: Labels, values: Tensor, name: str, output: Tensor) -> Iterator[Scored]:
    lines = None
    if output.shape[:-1] == values.shape:
        lines = output
    elif output.ndim > 2 and (output.shape[0], *output.shape[2:]) == tuple(values.shape):
        lines = output.movedim(1, -1)
    if lines is None or lines.shape[-1] < 2:
        return
    shifts = {labels.shift} if labels.shift or values.ndim < 2 else {0, 1}
    for shift in sorted(shifts):
        if shift < 0 or shift >= values.shape[-1]:
            continue
        rows, wanted = lines, values
        if shift:
            rows, wanted = lines[:, : lines.shape[1] - shift], values[:, shift:]
        made = _kept(labels, name, rows, wanted.flatten())
        if made is not None:
            yield made


def _kept(labels: Labels, name: str, whole: Tensor, wanted: Tensor) -> Scored | None:
    rows = whole.flatten(0, -2).double()
    keep = torch.ones_like(wanted, dtype=torch.bool)
    if labels.ignore is not None:
        keep = wanted != labels.ignore
    wanted = wanted[keep]
    if not len(wanted) or bool(((wanted < 0) | (wanted >= rows.shape[1])).any()):
        return None
    return Scored(name, labels.key, rows[keep], wanted, whole, keep)
