"""What a Lightning module sees as its Trainer within a diagnosis."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from nan_watch.adapters.installed import pl


class StandIn:
    """How far the training is, no logger, metrics that are no number, and else the Trainer's own.

    fit: what the fit is made of. module: the copy of the module that sees it. course: how far
    that is.
    """

    training = True
    sanity_checking = validating = testing = predicting = evaluating = False
    should_stop = False
    log_dir: str | None = None

    def __init__(self, fit: Any, module: Any, course: Any) -> None:
        self._fit, self._course, self.lightning_module = fit, course, module
        loggers = import_module(f"{pl.__name__}.loggers.logger")
        self.logger = loggers.DummyLogger()
        self.loggers = [self.logger]
        self.callback_metrics = self.logged_metrics = self.progress_bar_metrics = _Metrics()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fit.real, name)

    @property
    def current_epoch(self) -> int:
        """How many epochs are over; one lasts longer here where the training is short."""
        return int(self._course.batches // self._fit.long_epoch)

    @property
    def global_step(self) -> int:
        """How many steps the optimizers have made."""
        return int(self._course.steps)

    @property
    def is_last_batch(self) -> bool:
        """Whether the epoch ends with the batch at work."""
        return bool((self._course.batches + 1) % self._fit.long_epoch == 0)

    @property
    def max_epochs(self) -> int:
        """As the user's Trainer has it; else as many as make up a diagnosis."""
        self._fit.asked = True
        return int(self._fit.epochs)

    @property
    def max_steps(self) -> int:
        """As the user's Trainer has it; else -1."""
        trainer = self._fit.trainer
        return -1 if trainer is None else int(trainer.max_steps)

    @property
    def estimated_stepping_batches(self) -> int:
        """How many optimizer steps the training has."""
        self._fit.asked = True
        return int(self._fit.whole)

    @property
    def num_training_batches(self) -> int | float:
        """How many batches an epoch has."""
        found = self._fit.batches
        return math.inf if found is None else int(found)

    @property
    def datamodule(self) -> Any:
        """The DataModule, if there is one."""
        return self._fit.data

    @property
    def train_dataloader(self) -> Any:
        """The loader of the training data."""
        return self._fit.loader

    @property
    def optimizers(self) -> list[Any]:
        """Those that were made last."""
        return list(self._fit.optimizers)


class _Metrics(dict[str, Tensor]):
    """What was logged: nothing, so that each metric is no number."""

    def __missing__(self, name: str) -> Tensor:
        return torch.tensor(math.nan, device="cpu")
