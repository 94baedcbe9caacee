"""A watch that stands between calls of a framework, and not around a block."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from nan_watch.stepping import stepping
from nan_watch.watch import NanWatch
from probes.batch import map_leaves
from probes.subject import Batch

Part = tuple[Callable[[Batch], Any], Batch]
Until = Callable[[Sequence[Part]], Any]


class Standing:
    """Opens the watch at once; a step begins with its first part and ends by `end_step`.

    A refused step is explained at once, by running its parts again, each on what it was given.
    until: runs parts again with what the framework does to the gradients before the update.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, until: Until | None = None, **options: Any
    ) -> None:
        self._until = until
        self.watch = NanWatch(model, optimizer, **options)
        self.watch.__enter__()
        self._step: AbstractContextManager[None] | None = None
        self._parts: list[Part] = []
        self._ended = False
        self._seen = 0
        self._began = 0  # how many steps there were when the one at work began

    def part(self, run: Callable[[Batch], Any], batch: Batch, parts: int = 1) -> Any:
        """A part of the step has run on its batch, forward and backward; returns its loss.

        parts: how many there are, where each has divided its loss by their number.
        """
        if self.replays:
            return run(batch)
        self.note_part(run, batch, parts)
        try:
            loss = run(batch)
        except BaseException as error:
            self.end(error)
            raise
        self.watch.note_loss(loss * parts if parts > 1 and isinstance(loss, Tensor) else loss)
        return loss

    def note_part(self, run: Callable[[Batch], Any], batch: Batch, parts: int = 1) -> None:
        """A part of the step is about to run; the first one begins it."""
        kept = map_leaves(batch, lambda _, leaf: leaf)  # the loop may pop from the containers
        if self.watch.steps > self._began:  # the framework did not say that it was over
            self.end_step()
        if self._step is None:
            self._parts = []
            self._began = self.watch.steps
            self.watch.batch = self._seen
            whole = kept if parts == 1 else [kept]
            self._run = run  # where the watch sees what it reads
            until = None if self._until is None else self._until_update
            self._step = stepping(self.watch, self._again, whole, at_once=True, until=until)
            self._step.__enter__()
            self._whole = whole
        elif isinstance(self._whole, list):
            self._whole.append(kept)
        self._seen += 1
        self._parts.append((run, kept))

    def _again(self) -> Any:
        loss = None
        for run, batch in self._copied():
            loss = run(batch)
        return loss

    def _until_update(self) -> Any:
        assert self._until is not None
        return self._until(list(self._copied()))

    def _copied(self) -> Iterator[Part]:
        for run, batch in self._parts:
            yield run, map_leaves(batch, lambda _, leaf: leaf)

    def end_step(self, error: BaseException | None = None) -> None:
        """The step is over. Raises PoisonedStep where what it raised is explained."""
        step, self._step = self._step, None
        self._parts = []
        if step is not None:
            step.__exit__(type(error) if error else None, error, None)

    def clipping(self, clip: Callable[..., Any]) -> Callable[..., Any]:
        """Accelerate's `clip_grad_norm_`, to the same bits, of which the norms are known."""

        def run(parameters: Iterable[Tensor], max_norm: float, norm_type: float = 2) -> Any:
            accelerator = getattr(clip, "__self__", None)
            alone = getattr(accelerator, "num_processes", 1) == 1
            if not alone or norm_type != 2 or not math.isfinite(max_norm):
                return clip(parameters, max_norm, norm_type)
            if accelerator is not None:
                accelerator.unscale_gradients()
            return self.watch.clip_grad_norm_(max_norm, list(parameters))

        return run

    @property
    def replays(self) -> bool:
        """Whether what runs is a replay."""
        return self.watch._replays.running

    def end(self, error: BaseException | None = None) -> None:
        """The watch is closed. Raises PoisonedStep where it explains what was raised."""
        if self._ended:
            return
        self._ended = True
        try:
            self.end_step(error)
        except BaseException as told:
            self._close(told)
            raise
        self._close(error)

    def _close(self, error: BaseException | None) -> None:
        trace = error.__traceback__ if error is not None else None
        self.watch.__exit__(type(error) if error else None, error, trace)
