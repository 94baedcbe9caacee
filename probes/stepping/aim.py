"""What a step of the subject's own minimises, beside `Subject.loss`, which may be a report."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.finding import ExperimentError
from probes.replay import Snapshot, held_back, replay
from probes.seeding import seed_everything
from probes.stepping.accumulated import loss_gradient, without_dropout
from probes.stepping.one_step import CALLS, keep_strangers, made, take_step
from probes.stepping.roots import noted_roots
from probes.subject import Batch, Subject

ALONG = 0.75  # cosine: no two gradients of different parameters are as near to their sum
NEAR = 1e-3  # of the loss

Grads = Mapping[str, Tensor | None]


@dataclass(frozen=True, slots=True)
class Update:
    """One step of the optimizer: the losses whose backward passes came before, what it saw."""

    losses: tuple[float, ...]
    grads: Grads


def updates(subject: Subject, batch: Batch, seed: int | None = None) -> tuple[Update, ...]:
    """The steps that the optimizer, held back, was asked for: in one call that has any.

    Without dropout, and undone. seed: from which random state; as it is by default. Raises
    ExperimentError where the step raises.
    """
    model, roots, found = subject.model, list[Tensor](), list[Update]()

    def step() -> Tensor:
        without_dropout(model)
        loop = made(subject)
        if seed is not None:
            seed_everything(seed)

        def note() -> None:
            grads = {n: None if p.grad is None else p.grad.clone() for n, p in named.items()}
            found.append(Update(tuple(map(float, roots)), grads))
            roots.clear()

        named = dict(model.named_parameters())
        with held_back(loop.optimizer, note), noted_roots(roots.append):
            for _ in range(CALLS):
                take_step(loop, batch)
                if found:
                    break
        return torch.zeros(())

    with ExitStack() as outside:
        keep_strangers(subject, outside)
        replay(step, model, Snapshot.take(model, parameters=True))
    return tuple(found)


def minimised(subject: Subject, batch: Batch, seed: int) -> float:
    """The one loss that a step of the subject's own minimises, from this random state.

    Raises ExperimentError where it minimises several, or none.
    """
    found = updates(subject, batch, seed)
    if len(found) != 1 or len(found[0].losses) != 1:
        raise ExperimentError("a step of `Subject.train_step` minimises more than one loss")
    return found[0].losses[0]


def is_the_loss(subject: Subject, batch: Batch) -> bool:
    """Whether `Subject.loss` is what each step of the optimizer minimises.

    Its value is the sum or the mean of the losses that a step follows, or its gradient points the
    same way. Where that cannot be told, it is.
    """
    if subject.train_step is None:
        return True
    try:
        steps, (value, whole) = updates(subject, batch), loss_gradient(subject, batch)
    except ExperimentError:
        return True
    return all(_is_near(value, each.losses) or _is_along(each.grads, whole) for each in steps)


def _is_near(value: float, losses: tuple[float, ...]) -> bool:
    total = sum(losses)
    sizes = (total, total / len(losses)) if losses else ()
    return any(abs(size - value) <= NEAR * abs(value) for size in sizes)


def _is_along(seen: Grads, whole: Grads) -> bool:
    """Also where one of them is nothing, which says nothing of what is minimised."""
    one, two = (_sized(each) for each in (seen, whole))
    length = (_dot(one, one) * _dot(two, two)) ** 0.5
    return not length > 0 or _dot(one, two) >= ALONG * length


def _sized(grads: Grads) -> dict[str, Tensor]:
    return {n: g.to_dense().double() for n, g in grads.items() if g is not None}


def _dot(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> float:
    return sum(float((grad * two[name]).sum()) for name, grad in one.items() if name in two)
