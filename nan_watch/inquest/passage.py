"""The statements of a file from one line to another, to be run once more by themselves."""

from __future__ import annotations

import ast
import copy
import linecache
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import CodeType

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
SCOPES = (*FUNCTIONS, ast.ClassDef)
LOOPS = (ast.For, ast.AsyncFor, ast.While)
ASSIGNMENTS = (ast.Assign, ast.AnnAssign)
BLOCKS = ("body", "orelse", "finalbody")
ONCE = "__whynan_once__"


@dataclass(frozen=True, slots=True)
class Passage:
    """Statements that stand in one block, compiled with their own lines. sets: what they name."""

    code: CodeType
    file: str
    first: int
    last: int
    sets: frozenset[str]

    def __str__(self) -> str:
        """Which lines they are."""
        several = f"lines {self.first} to" if self.last > self.first else "line"
        return f"{several} {self.last} of {self.file}"


def passages(code: CodeType, first: int, last: int) -> Iterator[Passage]:
    """From the statement of the first line to that of the last, in the code's own block.

    First with the constants that are set right before; then with all that is set right before
    and set again among them, as a sum is. None where they stand in no block together, in that
    order, or cannot run outside of their function.
    """
    found = _between(block_of(code), first, last)
    if found is not None:
        block, begin, end = found
        sums = _with_sums(block, begin, end)
        begin = _with_constants(block, begin)
        for each in dict.fromkeys((begin, sums)):
            with suppress(SyntaxError):  # it returns, yields or awaits
                yield passage(block[each : end + 1], code.co_filename)


def passage_until(code: CodeType, first: int, last: int) -> Passage | None:
    """From the statement of the first line to that of the last, and to no statement behind it.

    Where that stands deeper, as under a condition, what comes before it there is a part; None
    where it is repeated, or they cannot run outside of their function.
    """
    found = _between(block_of(code), first, last)
    if found is None:
        return None
    block, begin, end = found
    ending = _cut(block[end], last)
    if ending is None:
        return None
    with suppress(SyntaxError):
        statements = [*block[_with_constants(block, begin) : end], ending]
        return passage(statements, code.co_filename)
    return None


def _cut(statement: ast.stmt, last: int) -> ast.stmt | None:
    """The statement, without what it holds behind that of the line."""
    for name in BLOCKS:
        inner = getattr(statement, name, None) or []
        place = _place(inner, last)
        if place is None:
            continue
        ending = _cut(inner[place], last)
        if isinstance(statement, LOOPS) or ending is None:
            return None
        shorter = copy.copy(statement)
        setattr(shorter, name, [*inner[:place], ending])
        return shorter
    return statement


def passage(statements: Sequence[ast.stmt], file: str) -> Passage:
    """The statements, compiled. Raises SyntaxError where they cannot run outside of a function."""
    end = statements[-1].end_lineno or statements[-1].lineno
    sets = frozenset().union(*map(sets_of, statements))
    return Passage(_compiled(statements, file), file, statements[0].lineno, end, sets)


def block_of(code: CodeType) -> Sequence[ast.stmt]:
    """The statements of a function's or a file's code; none where its source is not there."""
    lines = linecache.getlines(code.co_filename)
    try:
        tree = ast.parse("".join(lines))
    except SyntaxError:
        return []
    if code.co_name == "<module>":
        return tree.body
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS) and node.name == code.co_name:
            begins = min(each.lineno for each in (node, *node.decorator_list))
            if begins == code.co_firstlineno:
                return node.body
    return []


def _between(
    block: Sequence[ast.stmt], first: int, last: int
) -> tuple[Sequence[ast.stmt], int, int] | None:
    begin, end = (_place(block, line) for line in (first, last))
    if begin is None or end is None or begin > end:
        return None
    if begin == end:
        for inner in inner_blocks(block[begin]):
            if _place(inner, first) is not None and _place(inner, last) is not None:
                return _between(inner, first, last)
        if any(inner_blocks(block[begin])):  # one of the lines is the head of it
            return None
    return block, begin, end


def _place(block: Sequence[ast.stmt], line: int) -> int | None:
    places = (i for i, s in enumerate(block) if s.lineno <= line <= (s.end_lineno or s.lineno))
    return next(places, None)


def inner_blocks(statement: ast.stmt) -> Iterator[Sequence[ast.stmt]]:
    """Those that the statement holds, but for functions and classes."""
    if isinstance(statement, SCOPES):
        return
    for name in BLOCKS:
        if getattr(statement, name, None):
            yield getattr(statement, name)
    for each in (*getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
        yield each.body


def _with_constants(block: Sequence[ast.stmt], begin: int) -> int:
    while begin > 0 and _is_constant(block[begin - 1]):
        begin -= 1
    return begin


def _with_sums(block: Sequence[ast.stmt], begin: int, end: int) -> int:
    again = frozenset().union(*map(sets_of, block[begin : end + 1]))
    while begin > 0 and isinstance(block[begin - 1], ASSIGNMENTS):
        if not sets_of(block[begin - 1]) & again:
            break
        begin -= 1
    return begin


def sets_of(statement: ast.AST) -> frozenset[str]:
    """The names that it sets."""
    names = (n for n in ast.walk(statement) if isinstance(n, ast.Name))
    return frozenset(each.id for each in names if isinstance(each.ctx, ast.Store))


def _is_constant(statement: ast.stmt) -> bool:
    """Whether it sets names to a number or to nothing, as the sum of a loss that is to be."""
    if not isinstance(statement, ASSIGNMENTS):
        return False
    value = statement.value
    if isinstance(value, (ast.List, ast.Dict)):
        return not (value.elts if isinstance(value, ast.List) else value.values)
    return isinstance(value, ast.Constant)


def _compiled(statements: Sequence[ast.stmt], file: str) -> CodeType:
    """In a loop of one round, which they may end or go on with."""
    target = ast.Name(ONCE, ast.Store())
    rounds = ast.Tuple([ast.Constant(0)], ast.Load())
    loop = ast.copy_location(ast.For(target, rounds, list(statements), []), statements[0])
    module = ast.fix_missing_locations(ast.Module([loop], []))
    return compile(module, file, "exec", dont_inherit=True)
