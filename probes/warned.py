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
        name: str,
        line: int,
        file: TextIO | None = None,
        source: str | None = None,
    ) -> None:
        told = str(message), name, line
        if told not in shown:
            shown.add(told)
            before(message, category, name, line, file, source)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before
