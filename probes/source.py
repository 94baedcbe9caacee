"""The user's own lines around the place that a finding names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

AROUND, WIDEST, LARGEST = 3, 160, 2_000_000  # lines, characters, bytes


@dataclass(frozen=True, slots=True)
class SourceLine:
    """A line of a file; culprit is the one that was named."""

    number: int
    text: str
    culprit: bool


def source_lines(source: str | None) -> tuple[SourceLine, ...]:
    """The lines around `file.py:12`; none where there is no such file or line."""
    place, _, line = (source or "").rpartition(":")
    path = Path(place)
    if not place or not line.isdigit() or path.suffix not in (".py", ".pyi"):
        return ()
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            return ()
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, ValueError):  # not ours to read, or a name that no system takes
        return ()
    culprit = int(line)
    if not 1 <= culprit <= len(lines):
        return ()
    first = max(1, culprit - AROUND)
    return tuple(
        SourceLine(number, words[:WIDEST], number == culprit)
        for number, words in enumerate(lines[first - 1 : culprit + AROUND], first)
    )
