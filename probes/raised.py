"""What the user's own code raised, as a sentence with its place."""

from __future__ import annotations

import inspect
import os
import re
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from textwrap import shorten
from types import FrameType

import torch

from probes.advice import advice, line_of
from probes.errors import RequestError
from probes.sisters import SISTERS

MOST = 240  # characters of a message
NO_MEMORY = re.compile(r"can't allocate memory|not enough memory|out of memory", re.IGNORECASE)

_HOME = Path(__file__).resolve().parent.parent
_FOREIGN = (
    Path(sysconfig.get_paths()["stdlib"]).resolve(),
    Path(torch.__file__).resolve().parent,
    *(_HOME / name for name in SISTERS),
)
_DRIVERS = frozenset(
    _HOME / name
    for name in (
        "probes/checking.py",
        "nan_watch/hunt.py",
        "overfit/diagnose.py",
        "overfit/suite.py",
    )
)
"""What runs a subject: code outside of it called the diagnosis, and is no part of the subject."""


@contextmanager
def asked_of_user(what: str) -> Iterator[None]:
    """What the user's code raises inside becomes a RequestError that says what, and at which line.

    what: what was running, as it begins the sentence: "`Subject.loss`".
    """
    try:
        yield
    except RequestError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise  # it is a finding, and not a fault of the code
        place = source_of(error)
        at = f" at {place}" if place else ""
        whole = f"{what} raised {said(error)}{at}{line_of(error)}"
        raise RequestError(
            f"{whole}{'' if whole.endswith('.') else '.'} {advice(error)}"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that an allocator, torch's or python's, got no memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and NO_MEMORY.search(str(error)) is not None


def said(error: BaseException) -> str:
    """The exception's name and the first line of its message."""
    lines = str(error).strip().splitlines()
    words = shorten(lines[0], MOST, placeholder=" ...") if lines else ""
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def source_of(error: BaseException) -> str | None:
    """`file.py:line` of the innermost frame of the user's own code."""
    frames = traceback.extract_tb(error.__traceback__)
    return next((_place(frame) for frame in reversed(frames) if _is_own(frame.filename)), None)


def _is_own(name: str) -> bool:
    return _is_own_from(name, os.getcwd())


@lru_cache(maxsize=4096)
def _drives(name: str) -> bool:
    return Path(name).resolve() in _DRIVERS


@lru_cache(maxsize=4096)  # every frame of every call asks
def _is_own_from(name: str, _: str) -> bool:
    """The same, of a name that may be relative to the working folder."""
    path = Path(name).resolve()
    return (
        path.is_file()
        and "site-packages" not in path.parts
        and not any(folder in path.parents for folder in _FOREIGN)
    )


def _place(frame: traceback.FrameSummary) -> str:
    return place_in(frame.filename, frame.lineno or 0)


def place_in(name: str, line: int) -> str:
    """`file.py:line`, relative to the working folder where the file lies below it."""
    path, here = Path(name).resolve(), Path.cwd().resolve()
    shown = path.relative_to(here) if here in path.parents else path
    return f"{shown}:{line}"


def source_here(within: FrameType | None = None) -> str | None:
    """`file.py:line` of the innermost frame of the user's own code that is at work now.

    within: a frame from which on that is looked for, outwards; the innermost by default.
    """
    frame = own_frame(within)
    if frame is None:
        return None
    name = frame.f_code.co_filename
    return _place(traceback.FrameSummary(name, frame.f_lineno, "", lookup_line=False))


def own_frame(within: FrameType | None = None) -> FrameType | None:
    """The innermost frame of the user's own code that is at work now; None without one.

    The script that called a diagnosis is none.
    """
    frame = within or inspect.currentframe()
    while frame is not None and not _is_own(frame.f_code.co_filename):
        frame = None if _drives(frame.f_code.co_filename) else frame.f_back
    return frame


def source_of_code(function: Callable[..., object]) -> str | None:
    """`file.py:line` where a function of the user's own begins; None where it is not theirs."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None or not _is_own(code.co_filename):
        return None
    lines, first = inspect.getsourcelines(code)
    after = next((i for i, line in enumerate(lines) if line.lstrip().startswith("def ")), 0)
    frame = traceback.FrameSummary(code.co_filename, first + after, code.co_name)  # past decorators
    return _place(frame)
