"""The user's own lines: those around the place that a finding names, and those of a function."""

from __future__ import annotations

import ast
import linecache
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import CodeType

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


def function_of(code: CodeType) -> ast.FunctionDef | None:
    """The definition that the code was made from; None where its file does not hold it."""
    return _functions(code.co_filename).get((code.co_name, code.co_firstlineno))


@lru_cache(maxsize=64)
def _functions(file: str) -> dict[tuple[str, int], ast.FunctionDef]:
    """The functions of a file by name and first line, that of decorators."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:  # such as a cell with a line of magic
        return {}
    return {
        (node.name, min([node.lineno, *(each.lineno for each in node.decorator_list)])): node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }
