"""Trained parts that a step pulls, after the optimizer's, towards a twin that stands still."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

STRAIGHT = 0.999  # cosine of the way that the parameters take, and of the way to the twin


@dataclass(frozen=True, slots=True)
class Pulled:
    """site: the part that learns. twin: the one that stands still. share: how far of the way."""

    site: str
    twin: str
    share: float


class Pulls:
    """Notes what a model's parameters are after the optimizer's last step; start: before it.

    thawed: names of those without `requires_grad` that a step of an optimizer itself changes.
    """

    def __init__(self, model: nn.Module, start: Mapping[str, Tensor]) -> None:
        self._model, self._start = model, start
        self._stepped: dict[str, Tensor] = {}
        self._learning: set[str] = set()
        self._frozen: dict[str, Tensor] = {}
        self.thawed: set[str] = set()

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Inside, steps of optimizers are."""

        def before(optimizer: Optimizer, *_: Any) -> None:
            held = self._held(optimizer)
            self._frozen = {n: p.clone() for n, p in held.items() if not p.requires_grad}

        def after(optimizer: Optimizer, *_: Any) -> None:
            held = self._held(optimizer)
            self._learning |= {name for name, p in held.items() if p.grad is not None}
            self.thawed |= {n for n, p in held.items() if not _same(p, self._frozen.get(n, p))}
            named = self._model.named_parameters()
            self._stepped = {name: p.detach().clone() for name, p in named}

        hooks = register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _held(self, optimizer: Optimizer) -> dict[str, Tensor]:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        return {name: p for name, p in self._model.named_parameters() if id(p) in held}

    def found(self) -> Pulled | None:
        """The outermost part that was pulled towards its twin; None where none was."""
        now = dict(self._model.named_parameters())
        if now.keys() != self._stepped.keys() or self._start.keys() != now.keys():
            return None
        moved = {n for n in self._learning if not torch.equal(now[n], self._stepped[n])}
        if not moved:
            return None
        for site, twin in _twins(self._model, self._learning):
            share = self._share(site, twin, now)
            if share is not None:
                return Pulled(site, twin, share)
        return None

    def _share(self, site: str, twin: str, now: Mapping[str, Tensor]) -> float | None:
        ways, goals = [], []
        for name, p in self._model.get_submodule(site).named_parameters():
            one, other = f"{site}.{name}", f"{twin}.{name}"
            if not torch.equal(now[other], self._start[other]):
                return None
            ways.append((p.detach() - self._stepped[one]).double().flatten())
            goals.append((now[other].detach() - self._stepped[one]).double().flatten())
        way, goal = torch.cat(ways), torch.cat(goals)
        length = float(way.norm() * goal.norm())
        if not length > 0 or float(way @ goal) < STRAIGHT * length:
            return None
        return float(way.norm() / goal.norm())


def _twins(model: nn.Module, learning: set[str]) -> Iterator[tuple[str, str]]:
    """Parts that are built alike, of which the first learns and the second does not."""
    ones: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    others: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for site, module in model.named_modules():
        own = [(name, tuple(p.shape)) for name, p in module.named_parameters()]
        learn = [f"{site}.{name}" in learning for name, _ in own]
        if site and own and (all(learn) or not any(learn)):
            (ones if all(learn) else others)[type(module), *own].append(site)
    for kind, sites in ones.items():
        yield from ((one, other) for one in sites for other in others[kind])


def _same(now: Tensor, before: Tensor) -> bool:
    return now is before or torch.equal(now, before)
