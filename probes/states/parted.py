"""How far an output that was had in another way is off, and where that may be told."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.reading.causal import Causal
from probes.scoring.wanted import looked_at


@dataclass(frozen=True, slots=True)
class Parted:
    """How far an output had in another way is from that of the whole pass.

    how: the other way, in words. place: from which place on. sample: the worst.
    site: the first module that parts, where it is known.
    """

    how: str
    place: int
    sample: int
    largest: float
    relative: float
    limit: float
    site: str = "model"


def visible(experiment: Experiment, each: Causal, before: Tensor) -> Tensor:
    """True where an output is no padding and, where it was found causal, the loss looks at it."""
    seen = torch.ones(before.shape, dtype=torch.bool, device=before.device)
    for mask in experiment.masks:
        own = mask.over(tuple(before.shape), experiment.layout.axes.get(each.output))
        seen = seen if own is None else seen & own
    scored = None if each.guessed is None else looked_at(experiment, each)
    if scored is not None:
        seen = seen & scored.reshape([*scored.shape, *[1] * (before.ndim - scored.ndim)])
    return seen
