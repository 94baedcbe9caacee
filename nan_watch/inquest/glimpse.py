"""What a frame's code sees by its names, looked up so that the frame keeps nothing of it."""

from __future__ import annotations

import inspect
import sys
from types import FrameType
from typing import Any

SEE_THEMSELVES = frozenset(("locals", "vars", "eval", "exec", "dir"))


def glimpse(frame: FrameType) -> dict[str, Any]:
    """The frame's own names and what they stand for now.

    Up to Python 3.12 a function's frame keeps what it was asked for until it is asked again, and
    with it tensors that the function has let go of: it is emptied, unless its code may hold it.
    """
    seen = frame.f_locals
    found = dict(seen)
    if sys.version_info < (3, 13) and is_functions(frame) and not sees_itself(frame):
        seen.clear()
    return found


def is_functions(frame: FrameType) -> bool:
    """Whether it is a function's, and not a file's."""
    return bool(frame.f_code.co_flags & inspect.CO_OPTIMIZED)


def sees_itself(frame: FrameType) -> bool:
    """Whether its code asks for its names, and so might see that they were looked at."""
    return not SEE_THEMSELVES.isdisjoint(frame.f_code.co_names)
