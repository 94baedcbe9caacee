"""Stops a replay in the user's own frame, at the operator that gives the first bad value."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from nan_watch.origin.events import Event
from nan_watch.origin.find import Origin, find_origin
from nan_watch.origin.kernels import kernels
from nan_watch.origin.ledger import Ledger
from nan_watch.origin.operators import Operator
from nan_watch.origin.sources import Kind, kind_of
from probes.replay import Snapshot, replay
from probes.subject import Batch

Stop = Callable[[FrameType, str], None]
"""Is handed the frame to look at, the step's own variables in it, and where that is in words."""


def stop_at_birth(
    model: nn.Module,
    step: Callable[[], Tensor],
    snapshot: Snapshot,
    stop: Stop,
    *,
    batch: Batch = None,
    optimizers: Sequence[Optimizer] = (),
) -> bool:
    """The step was replayed, and `stop` called before the operator of the birth ran.

    For a birth in the backward pass, which runs no line of the user's, it is called before the
    forward operator whose derivative it is. Returns whether there was a place to stop at.
    """
    origin = find_origin(model, step, snapshot, batch=batch, optimizers=optimizers)
    event = None if origin is None else _operator(origin)
    if origin is None or event is None:
        return False
    stopping = _Stopping(model, batch, origin, event, stop)
    unfused = origin.kernels == "unfused"
    under = [kernels(unfused=unfused), stopping.watching(unfused)]
    replay(step, model, snapshot, under=under, optimizers=optimizers)
    return stopping.stopped


def _operator(origin: Origin) -> Event | None:
    """The operator of the birth, or that first read what was there before."""
    return next((event for event in origin.path if event.op is not None), None)


class _Stopping:
    def __init__(
        self, model: nn.Module, batch: Batch, origin: Origin, event: Event, stop: Stop
    ) -> None:
        self.model, self.batch, self.stop = model, batch, stop
        self.tick = event.tick if event.forward_tick is None else event.forward_tick
        self.words = _words(origin, event)
        self.stopped = False

    @contextmanager
    def watching(self, decompose: bool) -> Iterator[None]:
        """A ledger counts the operators; it is made only now, after the step's snapshot."""
        with _Counting(self, decompose):
            yield

    def reached(self) -> None:
        """The operator is about to run."""
        frame = _users(sys._getframe(1))
        if frame is not None:
            self.stopped = True
            self.stop(frame, self.words)


class _Counting(Ledger):
    """A ledger that tells when it has come to an operator."""

    def __init__(self, stopping: _Stopping, decompose: bool) -> None:
        super().__init__(stopping.model, stopping.batch, decompose)
        self._stopping = stopping

    def _before(
        self, known: Operator, args: Sequence[Any], kwargs: Mapping[str, Any], written: list[Tensor]
    ) -> Any:
        if self.ticks == self._stopping.tick:
            self._stopping.reached()
        return super()._before(known, args, kwargs, written)


def _words(origin: Origin, event: Event) -> str:
    at = event.place.at
    if event.forward_tick is not None:
        return f"before the line whose derivative gives {origin.held}: {event.op}{at}, backward"
    return f"before {event.op}{at}, which gives {event.held or 'what is finite'}"


def _users(frame: FrameType | None) -> FrameType | None:
    """The innermost frame of the user's own; failing that, of a library outside torch."""
    library = None
    while frame is not None:
        kind = kind_of(frame.f_code.co_filename)
        if kind is Kind.USER:
            return frame
        library = library or (frame if kind is Kind.LIBRARY else None)
        frame = frame.f_back
    return library
