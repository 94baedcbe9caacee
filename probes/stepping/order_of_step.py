"""In which order a step of the subject's own runs backward and the optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from probes.bus import Bus, Kind, See
from probes.replay import Snapshot, replay
from probes.stepping.hooked import before_steps
from probes.stepping.one_step import keep_strangers, made, take_step
from probes.subject import Batch, Subject

TIMES = 3  # calls of `train_step`

Event = Literal["backward", "step", "bare step"]
"""A gradient that is not zero has come; the optimizer was stepped, or so with no such gradient."""


@dataclass(frozen=True, slots=True)
class Order:
    """What happened in a few calls of the step, in its order; a backward pass is one event."""

    events: tuple[Event, ...]

    @property
    def bare(self) -> bool:
        """Whether gradients came, and none was there at any of several steps of the optimizer."""
        steps = [each for each in self.events if each != "backward"]
        return len(steps) > 1 and "step" not in steps and "backward" in self.events

    @property
    def ahead(self) -> bool:
        """Whether the optimizer was stepped before the first backward pass."""
        return self.events[:1] == ("bare step",)


@dataclass(slots=True)
class _Heard:
    """Notes when gradients come."""

    events: list[Event] = field(default_factory=list)

    @property
    def sees(self) -> Mapping[Kind, See]:
        return {Kind.PARAM_GRAD: self.came}

    def came(self, _: int, grad: Tensor) -> None:
        if self.events[-1:] != ["backward"] and _is_some(grad):
            self.events.append("backward")


def order_of_step(subject: Subject, batch: Batch) -> Order:
    """A few calls of the step were made on the batch and undone.

    Raises ExperimentError where one raises.
    """
    heard = _Heard()

    def step() -> Tensor:
        loop = made(subject)

        def stepped(*_: object) -> None:
            held = (p.grad for group in loop.optimizer.param_groups for p in group["params"])
            bare = not any(_is_some(grad) for grad in held)
            heard.events.append("bare step" if bare else "step")

        with before_steps(loop.optimizer, stepped):
            for _ in range(TIMES):
                take_step(loop, batch)
        return torch.zeros(())

    with Bus(subject.model, [heard]), ExitStack() as outside:
        keep_strangers(subject, outside)
        replay(step, subject.model, Snapshot.take(subject.model, parameters=True))
    return Order(tuple(heard.events))


def _is_some(grad: Tensor | None) -> bool:
    return grad is not None and bool((grad.to_dense() != 0).any())
