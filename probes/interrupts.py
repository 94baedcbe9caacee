"""Ctrl-C is answered at once, and what it left undone is told with the command that goes on."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

INTERRUPTED = 130
"""The status of a command that Ctrl-C ended before it found anything."""


@contextmanager
def acknowledged() -> Iterator[None]:
    """The first Ctrl-C inside says on standard error that all is being stopped, and is raised."""
    before = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not main or before is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _stop(number: int, frame: FrameType | None) -> None:
    with suppress(RuntimeError):  # where it came amid another write
        print("whynan: stopping ...", file=sys.stderr, flush=True)
    signal.default_int_handler(number, frame)


def goes_on(command: Sequence[str], folder: Path | str) -> str | None:
    """The command that goes on with a run that a command made; None of a run made by code."""
    if not command or Path(command[0]).stem != "whynan":
        return None
    named = any(word == "--out" or word.startswith("--out=") for word in command)
    words = [*command, *(() if named else ("--out", str(folder)))]
    return shlex.join(["whynan", *(word for word in words[1:] if word != "--resume"), "--resume"])
