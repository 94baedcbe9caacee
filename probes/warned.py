"""What other code warns of is shown once, however often the code runs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def warned_once() -> Iterator[None]:
    """Inside, a warning that says the same at the same line is shown once.

    Python's own memory of it is lost whenever a filter changes, as around a replay.
    """
    before = warnings.showwarning
    shown: set[tuple[str, str, int]] = set()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        told = str(message), filename, lineno
        if told not in shown:
            shown.add(told)
            before(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before
