"""Names that a function's code sets, and that nothing reads before they are set anew."""

from __future__ import annotations

import ast
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType

from probes.source import function_of

LOOPS = (ast.For, ast.AsyncFor, ast.While)
WITHS = (ast.With, ast.AsyncWith)
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.GeneratorExp)
LEAPS = (ast.Break, ast.Continue, ast.Yield, ast.YieldFrom, ast.Await)
BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")
SEES_ALL = {"locals", "vars", "eval", "exec"}
STEPS = 3  # names, each read for the next alone

Reads = Generator["At", None, bool]


@dataclass(frozen=True, slots=True)
class At:
    """A statement, by its block and its place there, and the statement that holds the block."""

    block: Sequence[ast.stmt]
    place: int
    around: At | None

    @property
    def statement(self) -> ast.stmt:
        """The statement itself."""
        return self.block[self.place]

    @property
    def loop(self) -> bool:
        """Whether a loop is around it."""
        return self.around is not None and (
            isinstance(self.around.statement, LOOPS) or self.around.loop
        )


@dataclass(frozen=True, slots=True)
class Unread:
    """A statement that sets a name which nothing reads.

    name: None where what is called is kept by none. again: the line where the name is set anew
    next, in the same block; None where it is not. by_round: what the last round of a loop gives is
    read, and what the rounds before it give is not.
    """

    name: str | None
    line: int
    again: int | None = None
    by_round: bool = False


@lru_cache(maxsize=1024)
def unread_at(code: CodeType, line: int) -> Unread | None:
    """Of the statement at this line, where no way through the code reads a name that it sets.

    A name that is read for nothing but another that is not read, is not read. None where that
    cannot be told, as of names that inner functions read, or of ways that leap.
    """
    function = function_of(code)
    at = None if function is None else _at(function.body, line, None)
    if function is None or at is None or _leaps(function, at):
        return None
    shared = {n.id for each in _inner(function) for n in ast.walk(each) if isinstance(n, ast.Name)}
    return None if _set_by(at.statement) & shared else _unread(at, STEPS)


def called_at(code: CodeType, line: int) -> str | None:
    """`norm` where the statement at this line is a bare `self.norm(x)`, of no calls within."""
    function = function_of(code)
    at = None if function is None else _at(function.body, line, None)
    if at is None or not isinstance(at.statement, ast.Expr):
        return None
    call = at.statement.value
    if not isinstance(call, ast.Call) or sum(isinstance(e, ast.Call) for e in ast.walk(call)) > 1:
        return None
    words, node = list[str](), call.func
    while isinstance(node, ast.Attribute):
        words.insert(0, node.attr)
        node = node.value
    return ".".join(words) if words and isinstance(node, ast.Name) else None


def first_line(code: CodeType, line: int) -> int:
    """Where the statement begins that reaches over the line."""
    function = function_of(code)
    at = None if function is None else _at(function.body, line, None)
    return line if at is None else at.statement.lineno


def _unread(at: At, steps: int) -> Unread | None:
    names = sorted(_targets(at.statement))
    if not steps or not names or any(name.startswith("_") for name in names):
        return None
    for by_round in (False, True) if at.loop else (False,):
        reads = [each for name in names for each in _reads(at, name, by_round)]
        then = [_unread(each, steps - 1) for each in reads]
        if all(each is not None and not each.by_round for each in then):
            return (then or [None])[0] or Unread(
                names[0], at.statement.lineno, _again(at, names[0]), by_round
            )
    return None


def _again(at: At, name: str) -> int | None:
    later = at.block[at.place + 1 :]
    return next((each.lineno for each in later if name in _set_by(each)), None)


def _reads(at: At, name: str, by_round: bool) -> Iterator[At]:
    """Where each way on from the statement reads the name first.

    by_round: only the ways into the next round of the loop around it.
    """
    block, place, around = at.block, at.place, at.around
    while (yield from _in_block(block, place + 1, around, name)) and around is not None:
        statement = around.statement
        if isinstance(statement, LOOPS):
            yield from _in_round(around, name)
            if by_round:
                return
        block, place, around = around.block, around.place, around.around


def _in_round(loop: At, name: str) -> Reads:
    statement = loop.statement
    if isinstance(statement, ast.While) and _is_read(statement.test, name):
        yield loop
    if isinstance(statement, (ast.For, ast.AsyncFor)) and name in _set_by(statement.target):
        return False
    return (yield from _in_block(statement.body, 0, loop, name))  # type: ignore[attr-defined]


def _in_block(block: Sequence[ast.stmt], begin: int, around: At | None, name: str) -> Reads:
    """Returns whether a way leads to the end of the block and neither reads nor sets the name."""
    for place in range(begin, len(block)):
        if not (yield from _in_statement(At(block, place, around), name)):
            return False
    return True


def _in_statement(at: At, name: str) -> Reads:
    statement = at.statement
    if isinstance(statement, (ast.If, *WITHS)):
        head = [statement.test] if isinstance(statement, ast.If) else statement.items
        if any(_is_read(each, name) for each in head):
            yield at
            return False
        one = yield from _in_block(statement.body, 0, at, name)
        if isinstance(statement, ast.If):
            other = yield from _in_block(statement.orelse, 0, at, name)
            return one or other
        return one and not any(name in _set_by(each) for each in head)
    if _is_read(statement, name):
        yield at
        return False
    if isinstance(statement, (ast.Return, ast.Raise)):
        return False
    return _holds_blocks(statement) or name not in _set_by(statement)


def _holds_blocks(statement: ast.stmt) -> bool:
    return any(getattr(statement, each, None) for each in BLOCKS)


def _is_read(node: ast.AST, name: str) -> bool:
    return any(
        isinstance(each, ast.Name) and each.id == name and not isinstance(each.ctx, ast.Store)
        for each in ast.walk(node)
    ) or any(
        isinstance(each, ast.AugAssign) and name in _set_by(each.target) for each in ast.walk(node)
    )


def _set_by(node: ast.AST) -> set[str]:
    names = (each for each in ast.walk(node) if isinstance(each, ast.Name))
    return {each.id for each in names if isinstance(each.ctx, ast.Store)}


def _targets(statement: ast.stmt) -> set[str]:
    """The names that it sets, where it sets nothing but names."""
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
        targets = [statement.target]
    else:
        return set()
    plain = (ast.Name, ast.Tuple, ast.List, ast.expr_context)
    whole = all(isinstance(node, plain) for each in targets for node in ast.walk(each))
    inside = _set_by(statement.value) if whole and statement.value is not None else set()
    return set().union(*map(_set_by, targets)) if whole and not inside else set()


def _at(block: Sequence[ast.stmt], line: int, around: At | None) -> At | None:
    """The innermost statement of the line; None where it stands among ways that cannot be told."""
    for place, statement in enumerate(block):
        if not statement.lineno <= line <= (statement.end_lineno or statement.lineno):
            continue
        at = At(block, place, around)
        if not _holds_blocks(statement):
            return at
        if not isinstance(statement, (ast.If, *WITHS, *LOOPS)):
            return None
        inner = [statement.body, getattr(statement, "orelse", [])]
        return next((one for each in inner if (one := _at(each, line, at)) is not None), None)
    return None


def _leaps(function: ast.AST, at: At) -> bool:
    """Whether there may be ways through the code, or the loops around it, beside those known."""
    around = at.around
    while around is not None:
        loop = around.statement if isinstance(around.statement, LOOPS) else None
        if loop is not None and (loop.orelse or _holds(loop, LEAPS)):
            return True
        around = around.around
    names = (each.id for each in ast.walk(function) if isinstance(each, ast.Name))
    return _holds(function, (ast.Global, ast.Nonlocal)) or not SEES_ALL.isdisjoint(names)


def _holds(node: ast.AST, kinds: tuple[type[ast.AST], ...]) -> bool:
    return any(isinstance(each, kinds) for each in ast.walk(node))


def _inner(function: ast.AST) -> Iterator[ast.AST]:
    every = (each for each in ast.walk(function) if each is not function)
    return (each for each in every if isinstance(each, SCOPES))
