"""Which statements may write a tensor in place: read from the source, to know what to look at.

It is a guess on the safe side, which only decides what is kept; what is found is found by running.
"""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any

from torch import nn

from nan_watch.origin.sources import Kind, kind_of

UNGRAPHED = re.compile(r"no_grad|inference_mode|set_grad_enabled|\.data\b|detach\(")
ANY = "*"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LOADS = frozenset(("load_state_dict", "vector_to_parameters"))
NOT_NUMBERS = frozenset(("requires_grad_", "share_memory_"))
NOT_OURS = frozenset(("step", "forward", "backward", "zero_grad", "__init__", "__call__"))
"""Functions of these names are known by what they do, or stand for too many."""


Targets = frozenset[str]
"""Names of attributes that may be written in place; ANY where it may be any tensor."""


@dataclass(frozen=True, slots=True)
class Writers:
    """Functions that may write a tensor in place, themselves or by what they call, with targets."""

    functions: Mapping[str, Targets]

    def targets(self, statement: ast.stmt) -> Targets:
        """What the statement may write, itself or by a function that it names."""
        return _writes(statement).union(*map(self._of, _named(statement)))

    def _of(self, name: str) -> Targets:
        return self.functions.get(name, frozenset())


def writers(names: Mapping[str, Any], model: nn.Module, file: str) -> Writers:
    """Those of the files that the names of a frame and the model's classes come from."""
    files = {file, *(_file(each) for each in names.values())}
    files |= {_file(type(module)) for module in model.modules()}
    known = _of(frozenset(each for each in files if each and kind_of(each) is Kind.USER))
    others = {name: _called(each, known) for name, each in names.items()}
    return Writers({**known.functions, **{name: found for name, found in others.items() if found}})


def _called(value: Any, known: Writers) -> Targets:
    """Of a function by another name that does so, such as one that is passed on."""
    code = getattr(getattr(value, "__func__", value), "__code__", None)
    if not isinstance(code, CodeType) or kind_of(code.co_filename) is not Kind.USER:
        return frozenset()
    called = {*code.co_names, *code.co_freevars, code.co_name} & known.functions.keys()
    found = frozenset[str]().union(*(known.functions[name] for name in called))
    own = any(map(_is_name_in_place, code.co_names)) and code.co_name not in known.functions
    return found | {ANY} if own else found


@functools.lru_cache(maxsize=16)
def _of(files: frozenset[str]) -> Writers:
    calls: dict[str, set[str]] = {}
    found: dict[str, Targets] = {}
    for file in files:
        for node in ast.walk(_tree(file)):
            if isinstance(node, FUNCTIONS) and node.name not in NOT_OURS:
                calls.setdefault(node.name, set()).update(_named(node))
                found[node.name] = found.get(node.name, frozenset()) | _writes(node)
    grown = True
    while grown:
        before = dict(found)
        for name, called in calls.items():
            found[name] = found[name].union(*(found[each] for each in called & found.keys()))
        grown = found != before
    return Writers({name: targets for name, targets in found.items() if targets})


@functools.lru_cache(maxsize=64)
def _tree(file: str) -> ast.AST:
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return ast.Module([], [])


def _file(value: Any) -> str:
    """Of a function, class or module; of an object, of its class."""
    if inspect.isfunction(value):
        return value.__code__.co_filename
    if inspect.ismodule(value):
        return getattr(value, "__file__", None) or ""
    made = value if inspect.isclass(value) else type(value)
    home = sys.modules.get(made.__module__)
    return getattr(home, "__file__", None) or ""


def _named(node: ast.AST) -> set[str]:
    """Every name and attribute in it."""
    found = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    return found | {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}


def _writes(node: ast.AST) -> Targets:
    outside = UNGRAPHED.search(ast.unparse(node)) is not None
    return frozenset(name for each in ast.walk(node) for name in _written(each, outside))


def _written(node: ast.AST, outside: bool) -> Iterator[str]:
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else _name(node.func)
        if _is_name_in_place(name):
            own = isinstance(node.func, ast.Attribute) and name not in LOADS
            target = node.func.value if own else None  # type: ignore[attr-defined]
            if target is None or not _ends_in(target, "grad"):
                yield ANY if target is None else _target(target)
    elif isinstance(node, (ast.Assign, ast.AugAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for each in targets:
            entry = isinstance(each, ast.Subscript) or isinstance(node, ast.AugAssign)
            if _ends_in(each, "data") or (outside and entry):
                yield _target(each)


def _target(expression: ast.expr) -> str:
    """The attribute that is written, past its entries and its `data`."""
    while isinstance(expression, ast.Subscript) or _ends_in(expression, "data"):
        expression = expression.value  # type: ignore[attr-defined]
    return expression.attr if isinstance(expression, ast.Attribute) else ANY


def _is_name_in_place(name: str) -> bool:
    if name in LOADS:
        return True
    hidden = name.startswith(("_", "clip_grad")) and not name.startswith("_foreach")
    return name.endswith("_") and not (hidden or name.endswith("__") or name in NOT_NUMBERS)


def _ends_in(expression: ast.expr, name: str) -> bool:
    return isinstance(expression, ast.Attribute) and expression.attr == name


def _name(expression: ast.expr) -> str:
    return expression.id if isinstance(expression, ast.Name) else ""
