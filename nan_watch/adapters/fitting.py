"""What a Lightning module finds around itself while it is fitted, in a diagnosis."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch.optim import Optimizer

from nan_watch.adapters.around import Around
from nan_watch.adapters.installed import pl
from nan_watch.adapters.stand_in import StandIn
from nan_watch.adapters.stretched import FEWEST

SILENT = ("log", "log_dict", "print")


@dataclass
class Course:
    """How far the training of a module is; it stands in the module, and is copied with it.

    steps: of its optimizers. batches: seen so far.
    """

    steps: int = 0
    batches: int = 0


def course_of(module: Any) -> Course:
    """The module's own course."""
    course = vars(module).get("_whynan_course")
    if course is None:
        course = module._whynan_course = Course()
    return course  # type: ignore[no-any-return]


@dataclass(eq=False)
class Fit:
    """What a fit is made of, for every copy of the module.

    trainer: the user's, if there is one. data: the DataModule, if there is one. batches: how many
    an epoch has; None where nothing says so. loader: the training data. callbacks: the user's own.
    asked: whether the module has asked how long the training is.
    """

    trainer: Any = None
    data: Any = None
    batches: int | None = None
    loader: Any = None
    callbacks: Sequence[Any] = ()
    asked: bool = False
    optimizers: list[Optimizer] = field(default_factory=list)
    schedules: list[Any] = field(default_factory=list)
    seen: tuple[Any, Any] = (None, None)  # what the newest training step returned, and its batch
    untold: set[str] = field(default_factory=set)  # hooks that raised
    _made: Any = None

    def __deepcopy__(self, memo: Any) -> Fit:
        return self

    @property
    def steps_an_epoch(self) -> int:
        """Optimizer steps, where the training itself takes an epoch."""
        parts = 1 if self.trainer is None else int(self.trainer.accumulate_grad_batches)
        return math.ceil((self.batches or FEWEST) / max(parts, 1))

    @property
    def epochs(self) -> int:
        """How many epochs there are; where nobody says so, as many as make up a diagnosis."""
        most = None if self.trainer is None else self.trainer.max_epochs
        if most is None or most < 1:
            return max(1, math.ceil(FEWEST / self.steps_an_epoch))
        return int(most)

    @property
    def whole(self) -> int:
        """How many optimizer steps the training has."""
        steps = self.epochs * self.steps_an_epoch
        most = -1 if self.trainer is None else self.trainer.max_steps
        return steps if most < 1 else min(most, steps)

    @property
    def is_known(self) -> bool:
        """Whether the length of the training was given, or told to the module."""
        return self.trainer is not None or self.asked

    @property
    def long_epoch(self) -> int:
        """Steps of an epoch in a diagnosis: a short training is stretched."""
        if self.trainer is None:
            return self.steps_an_epoch
        return self.steps_an_epoch * math.ceil(max(1.0, FEWEST / self.whole))

    @property
    def real(self) -> Any:
        """The user's Trainer, or a quiet one."""
        if self.trainer is not None:
            return self.trainer
        if self._made is None:
            self._made = _quiet()
        return self._made

    @contextmanager
    def attached(self, module: Any, optimizers: Sequence[Optimizer] = ()) -> Iterator[StandIn]:
        """Inside, the module has a trainer and its optimizers; nothing is logged."""
        own, schedules = list(optimizers) or self.optimizers, self.schedules
        stands, around, before = StandIn(self, module, course_of(module)), Around(), module._trainer
        for name in SILENT:
            around.wrap(module, name, lambda _: lambda *args, **kwargs: None)
        around.wrap(module, "optimizers", lambda _: lambda *a, **k: _one_or_all(own))
        around.wrap(module, "lr_schedulers", lambda _: lambda: _one_or_all(schedules) or None)
        module.trainer = stands
        try:
            yield stands
        finally:
            module.trainer = before
            around.undo()


def _one_or_all(found: list[Any]) -> Any:
    return found[0] if len(found) == 1 else found


def _quiet() -> Any:
    told = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    before = told.level
    told.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pl.Trainer(
                accelerator="cpu",
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
    finally:
        told.setLevel(before)
