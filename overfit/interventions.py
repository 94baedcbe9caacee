"""One thing about a subject changed: what might unlock a suite that does not memorise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from probes.batch import map_leaves
from probes.copying import copy_of
from probes.raised import said
from probes.subject import Batch, Subject

Change = Callable[[Subject], Subject]
RATES = (0.1, 10.0, 100.0)
CLIPPED = 1.0
"""The norm that gradients are clipped to where they were not."""

SMALLER = f"learning rate x {RATES[0]:g}"
LARGER = tuple(f"learning rate x {rate:g}" for rate in RATES[1:])
NO_SCHEDULE = "schedule and warm-up off"
NO_CLIPPING = "clipping off"
CLIPPING = f"gradients clipped to {CLIPPED:g}"
NO_DROPOUT = "dropout off"
NO_DECAY = "weight decay off"
THAWED = "frozen parts tuned"
FROZEN = "all but the last part frozen"
ALONE = "loss part `{}` alone"
WHOLE_PRECISION = "float32 throughout"
UNCHANGED = "unchanged"


class CannotChangeError(Exception):
    """An intervention that cannot be made; its message says why."""


def offered(subject: Subject, dropout: bool = False) -> Mapping[str, Change]:
    """The interventions that change something of this subject, its own ones last.

    dropout: whether the suites leave dropout on. Raises CannotChangeError where the optimizer
    cannot be made a second time.
    """
    found: dict[str, Change] = {}
    optimizer = _made(subject)
    for rate in RATES:
        found[f"learning rate x {rate:g}"] = partial(at_rate, factor=rate)
    if subject.schedule is not None:
        found[NO_SCHEDULE] = lambda s: replace(s, schedule=None)
    if subject.clip_norm is not None:
        found[NO_CLIPPING] = lambda s: replace(s, clip_norm=None)
    elif subject.train_step is None:
        found[CLIPPING] = lambda s: replace(s, clip_norm=CLIPPED)
    if dropout:
        found[NO_DROPOUT] = _without_dropout
    if any(group.get("weight_decay") for group in optimizer.param_groups):
        found[NO_DECAY] = _without_decay
    parameters = list(subject.model.parameters())
    if any(not each.requires_grad for each in parameters):
        found[THAWED] = _thawed
    if _before_last(subject.model):
        found[FROZEN] = _frozen
    if len(subject.parts) > 1 and subject.train_step is None:
        for name in subject.parts:
            found[ALONE.format(name)] = partial(_alone, name=name)
    if any(each.dtype in (torch.float16, torch.bfloat16) for each in parameters):
        found[WHOLE_PRECISION] = _in_float32
    return {**found, **subject.interventions}


def changed(subject: Subject, names: Sequence[str]) -> Subject:
    """The subject with these interventions, one after the other.

    Raises CannotChangeError where one is not offered, raises, or returns no Subject.
    """
    for name in names:
        if name == UNCHANGED:
            continue
        known = offered(subject, dropout=True)
        if name not in known:
            raise CannotChangeError(f"`{name}` changes nothing of this subject")
        try:
            made: Any = known[name](subject)
        except Exception as error:
            raise CannotChangeError(f"the intervention `{name}` raised {said(error)}") from error
        if not isinstance(made, Subject):
            raise CannotChangeError(
                f"the intervention `{name}` returned a {type(made).__name__}, but a Subject was "
                "expected"
            )
        subject = made
    return subject


def _made(subject: Subject) -> Optimizer:
    """An optimizer of a copy of the model. Raises CannotChangeError where it holds no such."""
    try:
        trial = copy_of(subject.model)
        optimizer = subject.optimizer(trial)
        held = {id(each) for group in optimizer.param_groups for each in group["params"]}
    except Exception as error:
        raise CannotChangeError(f"the optimizer cannot be made again: {said(error)}") from error
    if not held & {id(each) for each in trial.parameters()}:
        raise CannotChangeError(
            "the optimizer cannot be made again: `Subject.optimizer` does not hold the parameters "
            "of the model that it is handed; use its argument"
        )
    return optimizer


def _optimizer(subject: Subject, change: Callable[[dict[str, Any]], None]) -> Subject:
    """The subject whose optimizer's groups are changed as they are made."""
    make = subject.optimizer

    def made(model: nn.Module) -> Optimizer:
        optimizer = make(model)
        for group in optimizer.param_groups:
            change(group)
        return optimizer

    return replace(subject, optimizer=made)


def at_rate(subject: Subject, factor: float) -> Subject:
    """The subject whose optimizer's groups all learn at so many times their rate."""

    def change(group: dict[str, Any]) -> None:
        group["lr"] = group["lr"] * factor

    return _optimizer(subject, change)


def _without_decay(subject: Subject) -> Subject:
    def change(group: dict[str, Any]) -> None:
        group["weight_decay"] = 0.0

    return _optimizer(subject, change)


def _without_dropout(subject: Subject) -> Subject:
    from overfit.dropout import switch_off

    switch_off(subject.model)
    return subject


def _thawed(subject: Subject) -> Subject:
    """Everything is trained, at the first group's rate where the optimizer leaves it out."""
    make = subject.optimizer
    for each in subject.model.parameters():
        if each.is_floating_point():
            each.requires_grad_(True)

    def made(model: nn.Module) -> Optimizer:
        optimizer = make(model)
        held = {id(each) for group in optimizer.param_groups for each in group["params"]}
        left = [each for each in model.parameters() if id(each) not in held]
        if left:
            optimizer.add_param_group({"params": left})
        return optimizer

    return replace(subject, optimizer=made)


def _before_last(model: nn.Module) -> list[nn.Parameter]:
    """The trained parameters of every child but the last that has any."""
    children = [
        [each for each in child.parameters() if each.requires_grad] for child in model.children()
    ]
    return [each for own in [own for own in children if own][:-1] for each in own]


def _frozen(subject: Subject) -> Subject:
    for each in _before_last(subject.model):
        each.requires_grad_(False)
    make = subject.optimizer

    def made(model: nn.Module) -> Optimizer:
        optimizer = make(model)
        for group in optimizer.param_groups:
            group["params"] = [each for each in group["params"] if each.requires_grad]
        return optimizer

    return replace(subject, optimizer=made)


def _alone(subject: Subject, name: str) -> Subject:
    return replace(subject, loss=subject.parts[name])


def _in_float32(subject: Subject) -> Subject:
    """Weights and what the loss is handed, in float32."""
    subject.model.float()
    predict = subject.predict
    return replace(
        subject,
        loss=_fed_wide(subject.loss),
        predict=None if predict is None else _fed_wide(predict),
        metrics={name: _fed_wide(metric) for name, metric in subject.metrics.items()},
        parts={name: _fed_wide(part) for name, part in subject.parts.items()},
    )


def _fed_wide(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda model, batch, *more: function(model, _wide(batch), *more)


def _wide(batch: Batch) -> Batch:
    def wide(_: str, leaf: Any) -> Any:
        half = isinstance(leaf, Tensor) and leaf.dtype in (torch.float16, torch.bfloat16)
        return leaf.float() if half else leaf

    return map_leaves(batch, wide)
