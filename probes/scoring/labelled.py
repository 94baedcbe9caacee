"""Outputs laid beside the labels that they are scored against, place by place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from probes.experiment import LOSS, Experiment
from probes.layout import Labels
from probes.scoring.scored import scored

SHARE = 1e-3  # of the loss that the formula may be off by


@dataclass(frozen=True)
class Labelled:
    """An output whose first axes are those of the labels, samples first, places last.

    cuts: places from which labels are changed; one, of no meaning, where a sample has one label.
    guessed: the line that would declare it; nothing where it is declared.
    """

    labels: Labels
    output: str
    cuts: tuple[int, ...]
    guessed: tuple[str, ...]

    def from_place(self, values: Tensor, cut: int) -> Tensor:
        """True for the labels from the place on, over the labels' own shape."""
        if values.ndim < 2:
            return torch.ones_like(values, dtype=torch.bool)
        places = torch.arange(values.shape[-1], device=values.device)
        return (places >= cut).expand(values.shape)


def labelled(experiment: Experiment) -> Iterator[Labelled]:
    """Every output with more to each label than one number, and its labels."""
    declared = {each.key for each in experiment.declared.labels}
    for labels in experiment.layout.labels:
        values = experiment.tensors.get(labels.key)
        if values is None or not values.ndim or labels.kind != "class":
            continue
        lead = tuple(values.shape)
        cuts: tuple[int, ...] = (0,)
        if values.ndim > 1:
            cuts = tuple(sorted({lead[-1] * share // 4 for share in (1, 2, 3)} - {0}))
        known = labels.key in declared
        for name, output in experiment.outputs.items():
            fits = output.ndim > values.ndim and tuple(output.shape[: values.ndim]) == lead
            named = name == labels.output if known else _is_the_loss(experiment, labels, name)
            if fits and named and output.is_floating_point():
                yield Labelled(labels, name, cuts, () if known else (f"labels=({labels!r},)",))


def _is_the_loss(experiment: Experiment, labels: Labels, name: str) -> bool:
    """Whether the loss is the cross entropy of just this output and these labels, place by place.

    Labels may also be what a model is told to make; or be scored one place on.
    """
    loss = experiment.evaluated.ran.outputs.get(LOSS)
    found = [s for s in scored(experiment) if (s.output, s.labels_key) == (name, labels.key)]
    if loss is None or not found:
        return False
    own = float(F.cross_entropy(found[0].scores, found[0].labels))
    return abs(own - float(loss)) <= SHARE * max(abs(own), abs(float(loss)))
