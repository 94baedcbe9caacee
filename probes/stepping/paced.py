"""Schedules that a framework steps at its own pace, as one that is stepped once a step."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


@dataclass(frozen=True, slots=True)
class Pace:
    """A schedule, and how often it is stepped.

    every: after how many optimizer steps of a diagnosis. by_epoch: whether the framework steps it
    once in so many epochs, and not once in so many steps. stretch: how many times longer it is
    made to last than in the training itself. whole: how often the training itself steps it; None
    where nothing says how long that is. epochs: how many that has; None likewise.
    """

    schedule: Any
    every: int = 1
    by_epoch: bool = False
    stretch: float = 1.0
    whole: int | None = None
    epochs: int | None = None


class Paced(LRScheduler):
    """Steps each of its schedules at its pace; one that is at its end stays there.

    paces: the schedules. go: steps one of them, as the framework does.
    """

    def __init__(
        self, optimizer: Optimizer, paces: Sequence[Pace], go: Callable[[Any], None]
    ) -> None:
        self.optimizer = optimizer  # the schedules have made their first step themselves
        self.paces = tuple(paces)
        self._schedulers = [pace.schedule for pace in paces]
        self._go = go
        self._over: frozenset[int] = frozenset()
        self.steps = 0
        self.last_epoch = max([0, *(getattr(p.schedule, "last_epoch", 0) for p in paces)])

    def step(self, epoch: int | None = None) -> None:
        """One more optimizer step is done."""
        self.steps += 1
        for number, pace in enumerate(self.paces):
            if number in self._over or self.steps % pace.every:
                continue
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # that the optimizer took no step before
                    self._go(pace.schedule)
            except ValueError:  # a `OneCycleLR` at its end
                self._over |= {number}

    def get_last_lr(self) -> list[float | Tensor]:
        """The rate of each group."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]
