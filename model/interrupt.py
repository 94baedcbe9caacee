"""Ctrl-C as a wish to stop after the step that is running, so that a whole checkpoint is saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt:
    """Whether Ctrl-C was pressed."""

    def __init__(self) -> None:
        self.asked = False

    def note(self, number: int, frame: FrameType | None) -> None:
        """The wish is noted; the next Ctrl-C ends the process as it always does."""
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def noted_interrupt() -> Iterator[Interrupt]:
    """Within the block the first Ctrl-C is noted; after it the former handler is back.

    Outside the main thread, where Python takes no handlers, nothing is ever noted.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    former = signal.signal(signal.SIGINT, interrupt.note)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, former)
