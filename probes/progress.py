"""Progress bars, on standard error, so that standard output holds the answer alone."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)


def announce(words: str) -> None:
    """What is going on stands on standard error, where that is a terminal."""
    if sys.stderr.isatty():
        print(f"whynan: {words} ...", file=sys.stderr, flush=True)


def progress() -> Progress:
    """A progress display that shows nothing where standard error is no terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[said]}"),
        console=console,
        disable=not console.is_terminal,
    )
