"""What other values of a key move: the loss, an output, the step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.batch import leaves
from probes.compare import NOISES, gap
from probes.experiment import Experiment, with_leaf
from probes.finding import ExperimentError
from probes.scoring.behind_ids import read_behind_ids
from probes.stepping.aim import updates
from probes.subject import Batch
from probes.vary import vary


@dataclass(frozen=True, slots=True)
class Effect:
    """Whether anything moves, the loss at least; whether an output does."""

    any: bool
    outputs: bool


def effect_of(experiment: Experiment, batch: Batch) -> Effect:
    """What moves with the batch; an input that makes the code raise is read, too."""
    try:
        ran = experiment.evaluate(batch)
    except ExperimentError:
        return Effect(True, True)
    before = experiment.evaluated.ran.outputs
    if any(v.shape != before[n].shape for n, v in ran.outputs.items() if n in before):
        return Effect(True, True)
    limit = NOISES * experiment.evaluated.noise
    moved = [n for n, value in before.items() if _moves(value, ran.outputs.get(n), limit)]
    outputs = any(before[name].ndim for name in moved)
    return Effect(bool(moved), outputs or (bool(moved) and read_behind_ids(experiment, batch)))


def is_unread(experiment: Experiment, key: str) -> bool:
    """Whether neither the loss nor an output moves with other values of the key."""
    tensor = experiment.tensors[key]
    other = vary(tensor, torch.ones_like(tensor, dtype=torch.bool))
    return (
        other is not None and not effect_of(experiment, with_leaf(experiment.batch, key, other)).any
    )


def moves_the_step(experiment: Experiment, batch: Batch) -> bool:
    """Whether what a step of the subject's own minimises moves, though `Subject.loss` does not."""
    if experiment.subject.train_step is None:
        return False
    try:
        before, after = (updates(experiment.subject, each) for each in (experiment.batch, batch))
    except ExperimentError:
        return False
    return [each.losses for each in before] != [each.losses for each in after]


def halved(experiment: Experiment, batches: Mapping[str, Batch]) -> dict[str, Effect]:
    """What each key moves; keys that move nothing together are not changed one by one."""
    keys = list(batches)
    if not keys:
        return {}
    together = experiment.batch
    for key in keys:
        together = with_leaf(together, key, leaves(batches[key])[key])
    effect = effect_of(experiment, together)
    if len(keys) == 1 or not effect.any:
        return dict.fromkeys(keys, effect)
    halves = keys[: len(keys) // 2], keys[len(keys) // 2 :]
    one, two = ({key: batches[key] for key in half} for half in halves)
    return halved(experiment, one) | halved(experiment, two)


def _moves(before: Tensor, after: Tensor | None, limit: float) -> bool:
    return after is None or gap(before, after)[0] > limit
