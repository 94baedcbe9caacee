"""Which lines of the user's code draw random numbers, by python's, numpy's or torch's generator."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Self

from probes.raised import own_frame, place_in
from probes.replay import RandomState
from probes.seeding import kept_random_state, seed_everything

Line = tuple[str, int]


class DrawLines:
    """While entered, notes the lines after which a generator stands elsewhere, in their order.

    A line counts with what it calls, unless that is the user's own as well. swapped: a line whose
    draws come from another state, from `seed` on; all others draw as if it drew nothing.
    """

    def __init__(self, swapped: Line | None = None, seed: int = 0) -> None:
        self.found: list[Line] = []
        self._swapped, self._seed = swapped, seed
        self._other: RandomState | None = None
        self._own: RandomState | None = None
        self._last: Line | None = None
        self._state: RandomState | None = None
        self._before: Any = None

    def __enter__(self) -> Self:
        self._before, self._last, self._state, self._own = sys.gettrace(), None, None, None
        if self._swapped is not None:
            with kept_random_state():
                seed_everything(self._seed)
                self._other = RandomState.take()
        sys.settrace(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)
        self._passed()

    def said(self, number: int) -> str:
        """`file.py:line` of one that was found."""
        return place_in(*self.found[number])

    def _called(self, frame: FrameType, event: str, arg: object) -> Any:
        return self._at if own_frame(frame) is frame else None

    def _at(self, frame: FrameType, event: str, arg: object) -> Any:
        self._passed()
        if event == "line":
            self._last = frame.f_code.co_filename, frame.f_lineno
            if self._last == self._swapped and self._other is not None:
                self._own = RandomState.take()
                self._other.restore()
        elif event == "return" and frame.f_back is not None:
            caller = frame.f_back
            is_own = own_frame(caller) is caller
            self._last = (caller.f_code.co_filename, caller.f_lineno) if is_own else None
        self._state = RandomState.take()
        return self._at

    def _passed(self) -> None:
        """The last line is over: has it drawn?"""
        if self._own is not None:
            self._other = RandomState.take()
            self._own.restore()
            self._own = None
        elif self._last is not None and self._state is not None:
            new = self._last not in self.found
            if new and not self._state.same(RandomState.take()):
                self.found.append(self._last)


def deciding(
    lines: DrawLines, seeds: Sequence[int], holds: Callable[[DrawLines], bool]
) -> str | None:
    """The first of the lines that, with its draws from one of the seeds, lets it hold no more.

    None where no single one does.
    """
    for number, line in enumerate(lines.found):
        if not all(holds(DrawLines(line, seed)) for seed in seeds):
            return lines.said(number)
    return None
