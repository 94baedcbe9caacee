"""What the weighing of log-probabilities by an advantage does to the value in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from probes.ancestry import leaves_behind
from probes.experiment import Experiment, attempted, copied
from probes.replay import Snapshot, replay
from probes.slopes.advantages import Asked, Product, Weighed

EXACT = 1e-5  # of the larger of target and value
STRAIGHT = 1e-6  # below one, of a correlation
ENOUGH = 4  # numbers, from which on a straight line through them says something


@dataclass(frozen=True, slots=True)
class Taught:
    """Parameters of a value alone that a policy's term gives a gradient.

    names: theirs. policy, critic: the size of the gradient that each gives them. up: the step
    against the first one's raises the values. product, regression: the lines of the two.
    """

    names: tuple[str, ...]
    policy: float
    critic: float
    up: bool
    product: str | None
    regression: str | None


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """advantage: the tensor that is target less value, or the other way round where sign is -1."""

    product: Product
    asked: Asked
    advantage: Tensor
    sign: int


def taught(experiment: Experiment) -> Taught | None:
    """The loss has run once, without a step; None where no value learns from a policy's term."""
    subject, kept = experiment.subject, list[Taught]()
    held = {name for name, rate in experiment.stepped.rates.items() if rate}

    def step() -> Tensor:
        seen = Weighed()
        with attempted("`Subject.loss`"), ExitStack() as given:
            given.enter_context(seen.distributions())
            given.enter_context(seen)
            loss = subject.loss(subject.model, copied(experiment.batch))
        found = _found(seen)
        own = _own(subject.model, held, found)
        if own and loss.requires_grad:
            kept.extend(_measured(loss, found, own))
        return loss.detach()

    replay(step, subject.model, Snapshot.take(subject.model))
    return kept[0] if kept else None


def _found(seen: Weighed) -> list[_Found]:
    """Products of which the factor is made of a target less the value that is asked for it."""
    asked = [(each, _left(each)) for each in _told_apart(seen.asked)]
    found = []
    for product in seen.products:
        for tensor in seen.behind(product.factor):
            known = next(((a, s) for a, left in asked if (s := _sign(tensor, a, left))), None)
            if known is not None:
                found.append(_Found(product, known[0], tensor, known[1]))
                break
    return found


def _told_apart(asked: Sequence[Asked]) -> list[Asked]:
    """Those of which the line has several targets: what all are asked for alike is a penalty."""
    lines: dict[str | None, list[Tensor]] = {}
    for each in asked:
        lines.setdefault(each.source, []).append(each.target.double().flatten())
    several = {line: len(torch.cat(targets).unique()) > 1 for line, targets in lines.items()}
    return [each for each in asked if several[each.source]]


def _left(asked: Asked) -> Tensor:
    return (asked.target - asked.value.detach().reshape(asked.target.shape)).double().flatten()


def _sign(tensor: Tensor, asked: Asked, left: Tensor) -> int:
    """Of the line on which a tensor is target less value, scaled and moved; 0 where it is not."""
    if tensor.numel() != left.numel():
        return 0
    given = tensor.detach().double().flatten()
    value, target = asked.value.detach().double().flatten(), asked.target.double().flatten()
    allowed = EXACT * float(torch.maximum(value.abs().max(), target.abs().max()))
    for sign in (1, -1):
        if float((given - sign * left).abs().max()) <= allowed:
            return sign
    if len(left) < ENOUGH or min(float(value.std()), float(target.std())) <= allowed:
        return 0
    along = float(torch.corrcoef(torch.stack([given, left]))[0, 1])
    return (1 if along > 0 else -1) if abs(along) > 1 - STRAIGHT else 0


def _own(model: nn.Module, held: set[str], found: Sequence[_Found]) -> dict[str, Tensor]:
    """Parameters behind both values that no log-probability hangs on, and that are to learn."""
    if not found:
        return {}
    advantages = {id(x) for x in leaves_behind(*(each.advantage for each in found))}
    values = {id(x) for x in leaves_behind(*(each.asked.value for each in found))}
    logs = {id(x) for x in leaves_behind(*(each.product.log for each in found))}
    own = (advantages & values) - logs
    every = model.named_parameters()
    return {name: each for name, each in every if id(each) in own and name in held}


def _measured(loss: Tensor, found: Sequence[_Found], own: Mapping[str, Tensor]) -> list[Taught]:
    """The two gradients that the loss gives the value's own parameters; nothing where one is 0."""
    outs = [each.product.out for each in found]
    backs = torch.autograd.grad(loss, outs, retain_graph=True, allow_unused=True)
    both = [(each, back) for each, back in zip(found, backs, strict=True) if back is not None]
    if not both:
        return []
    ends = [each.product.factor for each, _ in both]
    ways = [_to_factor(each.product, back) for each, back in both]
    policy = _size(ends, ways, list(own.values()))
    errors = list({id(each.asked.error): each.asked.error for each, _ in both}.values())
    asks = torch.autograd.grad(loss, errors, retain_graph=True, allow_unused=True)
    held = [(x, back) for x, back in zip(errors, asks, strict=True) if back is not None]
    critic = _size([x for x, _ in held], [back for _, back in held], list(own.values()))
    if not policy > 0 or not critic > 0:
        return []
    pushed = 0.0
    for (each, _), end, way in zip(both, ends, ways, strict=True):
        (back,) = torch.autograd.grad(end, each.advantage, way, retain_graph=True)
        pushed += each.sign * float(back.sum())
    first, _ = both[0]
    return [
        Taught(tuple(own), policy, critic, pushed > 0, first.product.source, first.asked.source)
    ]


def _to_factor(product: Product, back: Tensor) -> Tensor:
    return (back * product.log.detach()).sum_to_size(product.factor.shape)


def _size(ends: Sequence[Tensor], ways: Sequence[Tensor], own: Sequence[Tensor]) -> float:
    if not ends:
        return 0.0
    grads = torch.autograd.grad(ends, own, ways, retain_graph=True, allow_unused=True)
    return math.sqrt(sum(float(x.double().square().sum()) for x in grads if x is not None))
