"""Whether a term of the loss still drowns another once the subject's own steps were taken."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import cycle, islice

import torch
from torch import Tensor

from probes.experiment import Experiment, copied
from probes.replay import Snapshot, replay
from probes.scoring.terms import Terms, parts
from probes.stepping.one_step import keep_strangers, made, take_step
from probes.undisturbed import undisturbed

AFTER = (4, 8, 16, 32)  # steps
BATCHES = 8  # which they take in turn


@dataclass(frozen=True, slots=True)
class Outgrown:
    """After so many steps the gradient of the larger is so many times that of the smaller."""

    steps: int
    times: float


def outgrown(experiment: Experiment, found: Terms, far: float) -> Outgrown | None:
    """The first look at which it is not `far` times as large any more; None where it stays so.

    What a head begins with, as far from all its answers, gives a gradient that is gone with it.
    The steps are those of the subject, a warm-up left out, on its batches in turn; all is undone.
    Raises ExperimentError where a step raises, or a term.
    """
    subject, model, told = experiment.subject, experiment.subject.model, list[Outgrown]()

    def step() -> Tensor:
        loop = made(replace(subject, schedule=None))
        batches = cycle(list(islice(subject.batches, BATCHES)))
        for count in range(1, max(AFTER) + 1):
            take_step(loop, next(batches))
            if count in AFTER:
                times = _times(experiment, found)
                if times < far:
                    told.append(Outgrown(count, times))
                    break
        return torch.zeros(())

    with ExitStack() as outside:
        keep_strangers(subject, outside)
        replay(step, model, Snapshot.take(model, parameters=True))
    return told[0] if told else None


def _times(experiment: Experiment, found: Terms) -> float:
    large, small = (_norm(experiment, name, found.shared) for name in (found.large, found.small))
    return large / small if small else float("inf")


def _norm(experiment: Experiment, name: str, shared: Sequence[str]) -> float:
    """Of a term's gradient, in evaluation mode, as the parameters are now."""
    model = experiment.subject.model
    own = dict(model.named_parameters())
    held = [own[each] for each in shared if each in own]
    with undisturbed(model), torch.enable_grad():
        value = parts(experiment)[name](model, copied(experiment.batch))
        grads = torch.autograd.grad(value, held, allow_unused=True)
    known = [each.to_dense().double().norm() for each in grads if each is not None]
    return float(torch.stack(known).norm()) if known else 0.0
