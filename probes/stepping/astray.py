"""Weights that are moved between two passes of one step, and not put back before the optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from probes.bus import Bus, Kind, See
from probes.operators.writes import Writes
from probes.replay import Snapshot, replay
from probes.stepping.one_step import keep_strangers, made, until_stepped
from probes.stepping.roots import noted_starts
from probes.subject import Batch, Subject

KEPT = 0.5  # share of the way that is not put back
DESCENT = -0.1  # cosine with the gradient below which it is a step of descent, taken by hand

Values = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Astray:
    """A parameter that was moved so.

    moved: how far, at the most. kept: the share of it that is still there. along: the cosine of
    the way with the gradient of the pass before. undone: it is put back after the optimizer, and
    takes what that wrote along. source: the line that moves it.
    """

    name: str
    moved: float
    kept: float
    along: float
    undone: bool
    source: str | None = None


@dataclass(slots=True)
class _Way:
    """One parameter's: how far it was moved from outside, at the most and now; what was written."""

    grad: Tensor
    base: Tensor
    now: Tensor
    most: Tensor
    updates: Tensor
    at_step: Tensor | None = None

    def moved(self, by: Tensor) -> None:
        self.now = self.now + by
        if self.now.norm() > self.most.norm():
            self.most = self.now


@dataclass(slots=True)
class _Ways:
    """Follows the parameters of a model from pass to pass, up to the optimizer and beyond."""

    model: nn.Module
    ways: dict[str, _Way] = field(default_factory=dict)
    last: Values = field(default_factory=dict)  # as the last pass, or step, left them
    found: dict[str, _Way] = field(default_factory=dict)
    waits: bool = False  # for the first module that is called after a pass
    before: Values = field(default_factory=dict)
    start: Values = field(default_factory=dict)  # as the last step of an optimizer left them

    @property
    def sees(self) -> Mapping[Kind, See]:
        return {Kind.INPUT: self._called}

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Inside, passes and steps of optimizers are."""
        self.start = self._values()
        with ExitStack() as inside:
            inside.enter_context(noted_starts(self._starts, self._ends))
            inside.callback(register_optimizer_step_pre_hook(self._steps).remove)
            inside.callback(register_optimizer_step_post_hook(self._stepped).remove)
            yield

    def _starts(self, _: Sequence[Tensor], given: Any) -> None:
        self.waits = self.waits and given is not None

    def _ends(self) -> None:
        values = self._values()
        for name, p in self.model.named_parameters():
            if p.grad is not None and name not in self.ways and p.requires_grad:
                still = torch.zeros_like(values[name])
                grad = p.grad.detach().to_dense().clone()
                self.ways[name] = _Way(grad, values[name], still, still, still)
        self.last, self.waits = values, True

    def entered(self) -> None:
        if self.last:
            self._move(most=True)

    def _called(self, _: int, __: Tensor) -> None:
        if self.waits:
            self.entered()

    def _move(self, most: bool) -> None:
        values = self._values()
        for name, way in self.ways.items():
            if name in values and name in self.last and not values[name].equal(self.last[name]):
                by = values[name] - self.last[name]
                if most:
                    way.moved(by)
                else:
                    way.now = way.now + by
        self.last = values

    def _steps(self, optimizer: Optimizer, *_: Any) -> None:
        if not self.last:
            return
        self._move(most=False)
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for name, p in self.model.named_parameters():
            way = self.ways.get(name)
            if way is not None and id(p) in held and way.most.any():
                back = p.detach() - self.start.get(name, way.base)
                way.at_step = min(way.now, back, key=lambda by: _share(by, way.most))
                self.found[name] = way
        self.before, self.waits = self._values(), False

    def _stepped(self, *_: Any) -> None:
        values = self._values()
        for name, way in self.found.items():
            if name in self.before:
                way.updates = way.updates + (values[name] - self.before[name])
        self.ways, self.last, self.before, self.start = {}, {}, {}, values

    def _values(self) -> Values:
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def astray(self) -> Iterator[Astray]:
        """What was not put back, after the whole call."""
        now = dict(self.model.named_parameters())
        for name, way in self.found.items():
            kept = _share(way.at_step, way.most)
            along = _cosine(way.most, way.grad)
            if not kept > KEPT or not along > DESCENT or name not in now:
                continue
            end = now[name].detach() - way.base
            undone = not bool(end.any()) and bool(way.updates.any())
            if undone or _share(end - way.updates, way.most) > KEPT:
                yield Astray(name, float(way.most.norm()), kept, along, undone)


def _share(part: Tensor | None, whole: Tensor) -> float:
    """How far along the whole the part goes."""
    if part is None:
        return 0.0
    return float((part * whole).sum() / (whole * whole).sum())


def _cosine(one: Tensor, two: Tensor) -> float:
    return float((one * two).sum() / (one.norm() * two.norm()).clamp_min(1e-30))


def astray(subject: Subject, batch: Batch) -> list[Astray]:
    """The parameters that one step of the subject's own moves and leaves so; it is undone.

    Raises ExperimentError where the step raises.
    """
    model, ways = subject.model, _Ways(subject.model)
    found: list[Astray] = []

    def step() -> Tensor:
        loop = made(subject)
        with ways.noted():
            until_stepped(loop, model, batch)
        found.extend(ways.astray())
        return torch.zeros(())

    with Bus(model, [ways], whole=True, entered=ways.entered), ExitStack() as outside:
        keep_strangers(subject, outside)
        replay(step, model, Snapshot.take(model, parameters=True))
    return found


def moved_at(subject: Subject, batch: Batch, name: str) -> str | None:
    """The first line outside of any module, and of an optimizer, that writes into the parameter."""
    model = subject.model
    writes = Writes(model, {name: dict(model.named_parameters())[name]})

    def step() -> Tensor:
        loop = made(subject)
        with writes:
            until_stepped(loop, model, batch)
        return torch.zeros(())

    with ExitStack() as outside:
        keep_strangers(subject, outside)
        replay(step, model, Snapshot.take(model, parameters=True))
    return next((each.source for each in writes.found if each.site == "<loss>"), None)
