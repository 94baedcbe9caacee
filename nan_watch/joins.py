"""Ranks that run out of batches before others, inside torch's `join()`: they still answer.

While a rank waits there for the others, torch stands in for its part of the collective calls of
DistributedDataParallel. What the watches tell each other at each step lies in a process group of
their own, and is answered by a thread.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from threading import Condition, Thread
from types import TracebackType
from typing import Any, Self

import torch
from torch.distributed.algorithms.join import Join

from nan_watch.guard import PoisonedStep, Refusals
from nan_watch.ranks import Ranks
from probes.errors import RequestError
from probes.finding import Finding


class Joins:
    """Answers the other ranks while it is open, where this one has no batch left.

    tell: called with what is found at another rank meanwhile. folder: gives the run folder's name.
    """

    def __init__(
        self,
        ranks: Ranks,
        refusals: Refusals,
        tell: Callable[[Finding], object],
        folder: Callable[[], str],
    ) -> None:
        self._ranks = ranks
        self._refusals = refusals
        self._tell = tell
        self._folder = folder
        self._answering: Thread | None = None
        self._raised: Exception | None = None
        self._heard = Condition()
        self._steps = self._answered = 0  # of the others, since this rank waits for them

    def demand_none(self) -> None:
        """Raises RequestError where a `join()` is at work already."""
        if self._ranks.several and _called():
            raise RequestError(
                "`join()` was called before the watch began, whose end the ranks would come to one "
                "after the other: call it inside of the watch's block, "
                "`with NanWatch(model, optimizer) as watch, model.join():`."
            )

    def __enter__(self) -> Self:
        """Every `join()` is looked at, where there are several ranks."""
        if self._ranks.several:
            if not _OPEN:
                _patch()
            _OPEN.append(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nobody looks for us any more."""
        if self in _OPEN:
            _OPEN.remove(self)
            if not _OPEN:
                _unpatch()

    def wait(self, join: Join, waiting: Callable[[], int]) -> int:
        """How many ranks still take steps, which is waited for; this one takes none.

        Raises PoisonedStep where they ended their loops at a step that they refused. One that
        throws ends all ranks' loops itself, at their next step.
        """
        if join._throw_on_early_termination:
            return waiting()
        if self._answering is None:
            self._steps = self._answered = 0
            self._answering = Thread(target=self._answer, daemon=True)
            self._answering.start()
        others = waiting()
        self._steps += 1
        if others == 0:
            self._answering.join()
            self._answering = None
        if self._raised is not None:
            raise self._raised
        return others

    def stands_in(self) -> bool:
        """Whether a step of the optimizer here stands in for one of the others', as of ZeRO's.

        It is taken only where the others take theirs. Raises PoisonedStep where it ended the loop.
        """
        if self._answering is None:
            return False
        with self._heard:
            self._heard.wait_for(lambda: self._raised or self._answered >= self._steps)
        if isinstance(self._raised, PoisonedStep):
            _count(0)
        if self._raised is not None:
            raise self._raised
        return True

    def let_go(self, *, ends: bool) -> None:
        """Ranks that are away have heard of the refusal; where it ends the loop, they go on."""
        if not self._ranks.some_away:
            return
        self._ranks.meet()
        if ends:  # those that wait are told of one that begins another step
            _count(1)

    def _answer(self) -> None:
        over = False
        while not over and self._raised is None:
            try:
                over, rank = self._ranks.answer()
                if not over:
                    self._hear(rank)
            except Exception as error:
                self._raised = error
            with self._heard:
                self._answered += 1
                self._heard.notify_all()

    def _hear(self, rank: int | None) -> None:
        """What ends the loop is known, where the others' step is refused at this rank."""
        if rank is None:
            self._refusals.end()
            return
        finding: Finding = self._ranks.shared(rank, _nothing)
        self._tell(finding)
        if self._refusals.add():
            self._raised = PoisonedStep(finding, self._folder())
        self._ranks.meet()


def _called() -> bool:
    """Whether this process has called a `join()` that it may be inside of."""
    found = (each for each in gc.get_objects() if issubclass(type(each), Join))
    return any(each._enable for each in found)


def _count(going_on: int) -> None:
    """The ranks that are inside of `join()` have been counted, this one as that many."""
    for each in _INSIDE:
        counted = torch.full((1,), float(going_on), device=each._device)
        torch.distributed.all_reduce(counted, group=each._process_group)


def _nothing() -> Any:
    """What a rank that is away finds."""


_OPEN: list[Joins] = []
_INSIDE: list[Join] = []
_TORCHS: list[tuple[Any, Any, Any]] = []


def _patch() -> None:
    own = Join.__enter__, Join.__exit__, Join._get_num_nonjoined_procs
    _TORCHS.append(own)

    def enter(self: Join) -> Any:
        _INSIDE.append(self)
        return own[0](self)  # type: ignore[no-untyped-call]

    def leave(self: Join, *how: Any) -> Any:
        try:
            return own[1](self, *how)
        finally:
            if self in _INSIDE:
                _INSIDE.remove(self)

    def count(self: Join) -> int:
        def waiting() -> int:
            return own[2](self)  # type: ignore[no-any-return, no-untyped-call]

        for each in _OPEN:
            waiting = _within(each, self, waiting)
        return waiting()

    _set(enter, leave, count)


def _within(each: Joins, join: Join, waiting: Callable[[], int]) -> Callable[[], int]:
    return lambda: each.wait(join, waiting)


def _unpatch() -> None:
    _INSIDE.clear()
    _set(*_TORCHS.pop())


def _set(enter: Any, leave: Any, count: Any) -> None:
    Join.__enter__, Join.__exit__ = enter, leave  # type: ignore[method-assign]
    Join._get_num_nonjoined_procs = count  # type: ignore[method-assign]
