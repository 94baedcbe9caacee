"""What a tenth of the learning rate does to samples that the whole rate does not memorise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import torch
from torch import Tensor

from overfit.heads import Heads
from overfit.interventions import RATES, at_rate
from probes.loop import Loop
from probes.seeding import kept_random_state, seed_everything
from probes.subject import Batch, Subject
from probes.undisturbed import undisturbed

STEPS = 60


@dataclass(frozen=True, slots=True)
class Settled:
    """`steps` more steps from the weights at the end, at the whole rate and at a tenth of it.

    kept, smaller: the mean loss over the last half of them. right_kept, right_smaller: the share
    that the worst head has right afterwards; None where nothing is counted.
    """

    steps: int
    kept: float
    smaller: float
    right_kept: float | None = None
    right_smaller: float | None = None


def settled(subject: Subject, batches: Sequence[Batch]) -> Settled | None:
    """What more steps come to; None of a subject that steps by itself.

    By the subject's own optimizer, which begins afresh and without a schedule; all is as it was
    afterwards.
    """
    return _from(subject, batches, kept(subject))


def again(
    subject: Subject, batches: Sequence[Batch], began: Mapping[str, Tensor]
) -> Settled | None:
    """The same from the weights it began with, where the loss is above that of these weights."""
    now = kept(subject)
    ended = _loss(subject, batches)
    try:
        subject.model.load_state_dict(dict(began))
        risen = not ended <= _loss(subject, batches)
    finally:
        subject.model.load_state_dict(now)
    return _from(subject, batches, began) if risen else None


def kept(subject: Subject) -> dict[str, Tensor]:
    """The model's weights and buffers as they are now."""
    return {name: value.clone() for name, value in subject.model.state_dict().items()}


def _from(
    subject: Subject, batches: Sequence[Batch], start: Mapping[str, Tensor]
) -> Settled | None:
    if subject.train_step is not None:
        return None
    model, now, found = subject.model, kept(subject), []
    try:
        for rate in (1.0, RATES[0]):
            model.load_state_dict(dict(start))
            found.append(trained(replace(at_rate(subject, rate), schedule=None), batches))
    finally:
        model.load_state_dict(now)
        model.zero_grad(set_to_none=True)
    (whole, right), (smaller, better) = found
    return Settled(STEPS, whole, smaller, right, better)


def _loss(subject: Subject, batches: Sequence[Batch]) -> float:
    with undisturbed(subject.model, training=True), kept_random_state(), torch.no_grad():
        return fmean(float(subject.loss(subject.model, batch)) for batch in batches)


def trained(
    subject: Subject, batches: Sequence[Batch], steps: int = STEPS
) -> tuple[float, float | None]:
    """The mean loss of the last half of so many steps, and what the worst head has right then."""
    loop, losses = Loop(subject), []
    with undisturbed(subject.model, training=True), kept_random_state(), torch.enable_grad():
        seed_everything(0)
        for step in range(steps):
            losses.append(float(loop.step(batches[step % len(batches)], None)))
    look = Heads(subject, batches).evaluate()
    shares = [look.hits[name] / count for name, count in look.counts.items() if count > 0]
    return fmean(losses[steps // 2 :]), min(shares, default=None)
