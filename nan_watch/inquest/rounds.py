"""What runs between a line of a loop and the same line's next turn: blocks of its file."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from types import FrameType

from nan_watch.inquest.passage import Passage, block_of, inner_blocks, passage, sets_of
from nan_watch.inquest.writers import NOT_OURS, Writers

CHANGES = frozenset(
    ("append", "appendleft", "extend", "insert", "add", "update", "pop", "popleft", "clear")
)
LOOPS = (ast.For, ast.AsyncFor, ast.While)


@dataclass(frozen=True, slots=True)
class Level:
    """What stands around a line, up to the end of a loop's body or of the function.

    tail: what comes after the line, until there. head: what comes before it, from where the body
    begins. targets: what the loop sets anew for each turn; None where it is the function's end.
    """

    tail: Sequence[ast.stmt]
    head: Sequence[ast.stmt]
    targets: frozenset[str] | None


def levels(frame: FrameType) -> list[Level]:
    """Those around the call that the frame is at, the innermost first; the last is its function's.

    None where its source is not there.
    """
    found: list[Level] = []
    tail: list[ast.stmt] = []
    head: list[ast.stmt] = []
    for owner, block, place in reversed(list(_chain(block_of(frame.f_code), _at(frame)))):
        tail += block[place + 1 :]
        head[:0] = block[:place]
        if owner is None or (isinstance(owner, LOOPS) and block is owner.body):
            found.append(Level(tail, head, None if owner is None else _sets_anew(owner)))
            tail, head = [], []
    return found


def _sets_anew(loop: ast.stmt) -> frozenset[str]:
    return sets_of(loop.target) if isinstance(loop, (ast.For, ast.AsyncFor)) else frozenset()


def _at(frame: FrameType) -> tuple[int, int]:
    """Line and column of the call that the frame is at."""
    line, _, column, _ = next(islice(frame.f_code.co_positions(), frame.f_lasti // 2, None))
    return line or frame.f_lineno, column or 0


def _chain(
    block: Sequence[ast.stmt], at: tuple[int, int], owner: ast.stmt | None = None
) -> Iterator[tuple[ast.stmt | None, Sequence[ast.stmt], int]]:
    """The blocks that hold the place, the outermost first, each with its owner and where in it."""
    for place, each in enumerate(block):
        end = (each.end_lineno or each.lineno, each.end_col_offset or 0)
        if (each.lineno, each.col_offset) <= at < end:
            yield owner, block, place
            for inner in inner_blocks(each):
                yield from _chain(inner, at, each)
            return


class Unfit(Exception):  # noqa: N818
    """The statements would take from an iterator again, which goes on."""


class Slice:
    """Takes from a frame's statements, those that run last first, what may write.

    targets: names of what it may write. wanted: those of interest.
    """

    def __init__(self, known: Writers, wanted: frozenset[str], file: str) -> None:
        self._known, self._wanted, self._file = known, wanted, file
        self.targets: set[str] = set()
        self._read: set[str] = set()

    def writing(
        self, statements: Sequence[ast.stmt], given: set[str] | None = None
    ) -> Passage | None:
        """Those that may write a tensor in place, with what they read from the others; or None.

        Of the others: those that set a name which is read, or change what it stands for. given:
        grows by names that are read and set from an iterator. Raises Unfit where it is None and
        there are any, or where what writes does so itself.
        """
        kept: list[ast.stmt] = []
        for statement in reversed(statements):
            writes = self._known.targets(statement) & self._wanted
            gives = _gives(statement) & self._read
            self.targets |= writes
            if (writes or gives) and _takes(statement):
                if writes or given is None:
                    raise Unfit
                given |= gives
            elif writes or gives:
                kept.insert(0, statement)
                self._read |= names_of(statement)
        try:
            return passage(kept, self._file) if kept else None
        except SyntaxError:  # it returns, yields or awaits
            return None


def _takes(statement: ast.stmt) -> bool:
    """Whether it takes the next of an iterator."""
    return "next" in names_of(statement) or "__next__" in ast.unparse(statement)


def names_of(node: ast.AST) -> frozenset[str]:
    """The names in it."""
    return frozenset(each.id for each in ast.walk(node) if isinstance(each, ast.Name))


def _gives(statement: ast.stmt) -> frozenset[str]:
    """The names that it sets, or whose entries, attributes or content it changes."""
    found = set(sets_of(statement))
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        called = statement.value.func
        if isinstance(called, ast.Attribute) and called.attr not in NOT_OURS:
            plain = isinstance(called.value, ast.Name)
            found |= {_root(called.value)} if plain or called.attr in CHANGES else set()
    if isinstance(statement, ast.Assign):
        found |= {_root(each) for each in statement.targets}
    if isinstance(statement, ast.AugAssign):
        found.add(_root(statement.target))
    return frozenset(found)


def _root(expression: ast.expr) -> str:
    """The name that attributes and entries are taken of; empty where it is none."""
    while isinstance(expression, (ast.Attribute, ast.Subscript)):
        expression = expression.value
    return expression.id if isinstance(expression, ast.Name) else ""
