"""Lightning: a callback that watches `fit`, and the subject of a module with its data.

trainer = Trainer(..., callbacks=[WatchCallback()])
trainer.fit(module, datamodule)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from nan_watch.adapters.around import Around
from nan_watch.adapters.hooks import arguments, loss_of
from nan_watch.adapters.installed import FRAMEWORK, pl
from nan_watch.adapters.known import known, stranger
from nan_watch.adapters.module_subject import subject_of
from nan_watch.adapters.standing import Part, Standing
from nan_watch.adapters.together import together
from probes.errors import RequestError
from probes.subject import Batch

LOGGING = ("log", "log_dict")


class WatchCallback(pl.Callback):
    """Watches `trainer.fit`, as NanWatch does, with NanWatch's own options.

    A refused step is replayed through the module's own `training_step`. The report is made when
    fitting ends, be it by an error. `watch` is the NanWatch of the newest fit.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._standing: Standing | None = None
        self._steps = 0

    def __getattr__(self, name: str) -> Any:
        raise stranger(name, "lightning", "transformers")

    @property
    def watch(self) -> Any:
        """The NanWatch around the newest fit. Raises RequestError where there was none."""
        if self._standing is None:
            raise RequestError(
                "`WatchCallback` watched nothing yet: call `trainer.fit(...)` first."
            )
        return self._standing.watch

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """The watch stands."""
        same = [each for each in trainer.callbacks if isinstance(each, type(self))]
        if len(same) > 1:
            raise RequestError(
                f"the Trainer has {len(same)} callbacks of class `WatchCallback`, but one watch "
                "was expected: give it one."
            )
        optimizers = known(trainer, "optimizers", FRAMEWORK)
        until = _until_update if pl_module.automatic_optimization else None
        self._standing = Standing(pl_module, together(optimizers), until, **self._options)
        self._steps = self._standing.watch.steps

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """A part of a step begins."""
        if self._standing is not None:
            parts = 1
            if pl_module.automatic_optimization:
                parts = known(trainer, "accumulate_grad_batches", FRAMEWORK)
            self._standing.note_part(_Again(trainer, pl_module, batch_idx, parts), batch, parts)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The part is over, and the step with it where an optimizer stepped."""
        standing = self._standing
        if standing is not None:
            standing.watch.note_loss(loss_of(outputs))
            if standing.watch.steps > self._steps:
                self._steps = standing.watch.steps
                standing.end_step()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """The watch is gone, and the report made where there is something to say."""
        if self._standing is not None:
            self._standing.end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """The watch is gone. Raises PoisonedStep where it explains the exception."""
        if self._standing is not None:
            self._standing.end(exception)


class _Again:
    """A batch's forward and backward pass, which `training_step` makes; nothing is logged."""

    def __init__(self, trainer: Any, module: Any, index: int, parts: int) -> None:
        self.trainer, self.module, self.index, self.parts = trainer, module, index, parts

    def __call__(self, batch: Batch) -> Any:
        trainer, module = self.trainer, self.module
        with _unlogged(module), _uncounted(trainer):
            loss = self._loss(batch)
            if module.automatic_optimization and isinstance(loss, Tensor):
                scaler = getattr(trainer.precision_plugin, "scaler", None)
                scaled = loss / self.parts
                (scaled if scaler is None else scaler.scale(scaled)).backward()
        return loss if isinstance(loss, Tensor) else torch.zeros(())

    def with_hooks(self, batch: Batch) -> Any:
        """The passes with the module's own backward and what callbacks do around it."""
        loss = self._loss(batch)
        if not isinstance(loss, Tensor):
            return torch.zeros(())
        self.trainer.strategy.backward(loss / self.parts, _stepped(self.trainer))
        return loss

    def _loss(self, batch: Batch) -> Any:
        given = arguments(self.module, batch, self.index)
        return loss_of(known(self.trainer, "strategy", FRAMEWORK).training_step(*given))


def _until_update(parts: Sequence[Part]) -> Any:
    """The parts have run, the last in the module's `optimizer_step`; returns its loss."""
    again: list[_Again] = [run for run, _ in parts]  # type: ignore[misc]
    module, trainer, losses = again[-1].module, again[-1].trainer, list[Any]()
    if getattr(trainer.precision_plugin, "scaler", None) is not None:
        return torch.zeros(())  # whose scale the step would move
    with _unlogged(module), _uncounted(trainer):
        for each, (_, batch) in zip(again[:-1], parts, strict=False):
            each.with_hooks(batch)

        def closure() -> Any:
            losses.append(again[-1].with_hooks(parts[-1][1]))
            return losses[-1]

        optimizer = trainer.strategy._lightning_optimizers[0]
        module.optimizer_step(trainer.current_epoch, again[-1].index, optimizer, closure)
    return losses[-1] if losses else torch.zeros(())


def _stepped(trainer: Any) -> Any:
    return known(trainer, "optimizers", FRAMEWORK)[0]


@contextmanager
def _unlogged(module: Any) -> Iterator[None]:
    """What the module logs goes nowhere."""
    around = Around()
    for name in LOGGING:
        around.wrap(module, name, lambda _: lambda *args, **kwargs: None)
    try:
        yield
    finally:
        around.undo()


@contextmanager
def _uncounted(trainer: Any) -> Iterator[None]:
    """Optimizers that the module steps by hand are not counted by the trainer."""
    with ExitStack() as stack:
        for each in getattr(trainer.strategy, "_lightning_optimizers", ()):
            around = Around()
            for name in ("_on_before_step", "_on_after_step"):
                around.wrap(each, name, lambda _: lambda: None)
            stack.callback(around.undo)
        yield


__all__ = ["WatchCallback", "subject_of"]
