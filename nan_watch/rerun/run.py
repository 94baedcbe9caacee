"""A seeded re-run of a subject with a smaller step: what earlier steps did, confirmed or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nan_watch.capsule.start import Start
from nan_watch.rerun.order import from_batch, schedule_at
from probes.command import on_device, prepare
from probes.copying import copy_of
from probes.loop import Loop
from probes.replay import is_finite
from probes.seeding import seed_everything
from probes.subject import Subject


def rerun(
    subject: Subject | str,
    seed: int,
    device: str | None,
    steps: int,
    lr_factor: float,
    start: Start | None = None,
    change: Callable[[nn.Module], None] | None = None,
    all_of_them: bool = True,
) -> bool:
    """Whether every step comes out finite where each is `lr_factor` of its size.

    subject: an address, which is loaded afresh; or a Subject with its initial weights, of which
    a copy is trained. steps: the number of the step that was refused, and one, since steps count
    from 0. start: what to start from instead of the first step. change: done to the model before.

    A step is finite where its loss, its gradients and the weights after it are. Batches that
    come to an end before count as not finite where all of the steps are asked for: nothing was
    shown.
    """
    fresh = _smaller_steps(_fresh(subject, seed, device), lr_factor)
    loop = Loop(fresh) if start is None else _started(Loop(fresh), start)
    first = 0 if start is None else start.step
    if start is not None:
        _scale(loop.optimizer, lr_factor)
    if change is not None:
        change(loop.model)
    taken = 0
    for _, batch in islice(from_batch(loop.subject.batches, first), max(0, steps - first)):
        if not is_finite(loop.step(batch)) or not _all_finite(loop.model, loop.optimizer):
            return False
        taken += 1
    return taken == steps - first > 0 or (taken > 0 and not all_of_them)


def restarted(subject: Subject, start: Start) -> Loop:
    """The loop of a copy of the subject's model, which stands where the start was taken."""
    return _started(Loop(_fresh(subject, 0, None)), start)


def _started(loop: Loop, start: Start) -> Loop:
    schedule_at(loop.schedule, start.step)
    start.restore(loop.model, loop.optimizer)
    return loop


def _fresh(subject: Subject | str, seed: int, device: str | None) -> Subject:
    if isinstance(subject, str):
        return prepare(subject, seed, device)
    seed_everything(seed)
    own = replace(subject, model=copy_of(subject.model))
    return own if device is None else on_device(own, device)


def _smaller_steps(subject: Subject, factor: float) -> Subject:
    """The subject, whose schedule too starts from the smaller learning rates."""
    make: Callable[[nn.Module], Optimizer] = subject.optimizer

    def smaller(model: nn.Module) -> Optimizer:
        optimizer = make(model)
        _scale(optimizer, factor)
        return optimizer

    return replace(subject, optimizer=smaller)


def _scale(optimizer: Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * factor


def _all_finite(model: nn.Module, optimizer: Optimizer) -> bool:
    held = [p for group in optimizer.param_groups for p in group["params"]]
    tensors: list[Tensor] = [*model.parameters(), *held]
    grads = [each.grad for each in tensors if each.grad is not None]
    with torch.no_grad():
        return all(is_finite(each) for each in [*tensors, *grads])
