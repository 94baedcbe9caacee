"""Sums of a tensor and itself, which the code calls by two names."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from probes.raised import own_frame, place_in
from probes.running import names_of, running
from probes.source import function_of

SUMS = {"add", "iadd", "radd"}


@dataclass(frozen=True, slots=True)
class Doubled:
    """A sum of one tensor and itself. names: by which two names the code calls it."""

    site: str
    names: tuple[str, str]
    shape: tuple[int, ...]
    source: str


class Doubles(TorchFunctionMode):
    """While it is entered, `found` lists sums of two names, one of which was set to the other."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.found: list[Doubled] = []
        self._names = names_of(model)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The function's result; what it was given was looked at."""
        name = getattr(func, "__name__", "").strip("_")
        if name in SUMS and len(args) > 1 and args[0] is args[1] and args[0].requires_grad:
            self._note(args[0])
        return func(*args, **(kwargs or {}))

    def _note(self, tensor: Tensor) -> None:
        frame = own_frame()
        if frame is None:
            return
        for names in _sums_of_aliases(frame.f_code, frame.f_lineno):
            if all(frame.f_locals.get(name) is tensor for name in names):
                source = place_in(frame.f_code.co_filename, frame.f_lineno)
                shape = tuple(tensor.shape)
                self.found.append(Doubled(running(self._names) or "<loss>", names, shape, source))
                return


def _sums_of_aliases(code: CodeType, line: int) -> list[tuple[str, str]]:
    """The pairs of names that are added at this line, and of which one was set to the other before.

    Neither is set to anything else in between, on whatever branch, or in a loop around the sum.
    """
    function = function_of(code)
    if function is None:
        return []
    found, every = [], list(_settings(function))
    for names in _sums(function, line):
        own = [(at, to) for at, name, to in every if name in names]
        at, to = max(((at, to) for at, to in own if at < line), default=(0, None), key=_line)
        looped = any(
            start <= each <= end
            for start, end in _loops(function)
            for each, _ in own
            if start <= line <= end and not start <= at <= end
        )
        if names[0] != names[1] and to in names and not looped:
            found.append(names)
    return found


def _line(setting: tuple[int, str | None]) -> int:
    return setting[0]


def _loops(function: ast.AST) -> Iterator[tuple[int, int]]:
    """First and last line of each loop."""
    for node in ast.walk(function):
        if isinstance(node, (ast.For, ast.While)):
            yield node.lineno, node.end_lineno or node.lineno


def _sums(function: ast.AST, line: int) -> Iterator[tuple[str, str]]:
    """The plain names that are added in an expression that reaches over the line."""
    for node in ast.walk(function):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            pair = node.left, node.right
        elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
            pair = node.target, node.value
        else:
            continue
        reached = node.lineno <= line <= (node.end_lineno or line)
        if reached and isinstance(pair[0], ast.Name) and isinstance(pair[1], ast.Name):
            yield pair[0].id, pair[1].id


def _settings(function: ast.AST) -> Iterator[tuple[int, str, str | None]]:
    """Line, name, and the plain name that it is set to; None where that is anything else."""
    told = set[ast.Name]()
    for node in ast.walk(function):
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            for name, value in _pairs(target, node.value):
                told.add(name)
                yield name.lineno, name.id, value.id if isinstance(value, ast.Name) else None
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node not in told:
            yield node.lineno, node.id, None


def _pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[ast.Name, ast.expr | None]]:
    """The names of a target, each with what it is set to, where that can be told."""
    if isinstance(target, ast.Name):
        yield target, value
    elif isinstance(target, (ast.Tuple, ast.List)):
        values = value.elts if isinstance(value, ast.Tuple) else []
        alike = len(values) == len(target.elts)
        for i, each in enumerate(target.elts):
            if isinstance(each, ast.Name):
                yield each, values[i] if alike else None
