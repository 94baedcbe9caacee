"""What outlives a call and is no attribute: parameters, default values, globals, closures."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from probes.experiment import LOSS, Experiment
from probes.modules import every_module
from probes.raised import place_in, source_here, source_of_code
from probes.states.attributes import Leaves, held, same
from probes.states.life import Life, Outputs, differs
from probes.states.remembered import Undo, remembers

WRITES = ("append", "extend", "update", "setdefault", "insert", "add", "appendleft")


@dataclass(frozen=True, slots=True)
class Rewritten:
    """Parameters that a pass writes itself, no optimizer; source: the line that wrote last."""

    names: tuple[str, ...]
    source: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Stray:
    """A name of a function's whose value outlives the call.

    site: the module whose code it is, or `<loss>`. words: what it is, as a sentence calls it.
    home: where it may be bound anew; None of a default argument, which cannot be.
    """

    site: str
    words: str
    name: str
    function: FunctionType
    value: Any
    home: MutableMapping[str, Any] | CellType | None

    @property
    def source(self) -> str | None:
        """`file.py:line` at which the function writes it, or where the function begins."""
        lines = list(_written(self.function.__code__, self.name))
        path = self.function.__code__.co_filename
        return place_in(path, lines[-1]) if lines else source_of_code(self.function)

    @property
    def now(self) -> Any:
        """What the name means by now."""
        if self.home is None:
            return self.value
        return _content(self.home) if isinstance(self.home, CellType) else self.home[self.name]

    def kept(self) -> Undo:
        """Called, the function it returns lets the name hold what it holds now."""
        value, within = self.now, remembers(self.now)

        def undo() -> None:
            if isinstance(self.home, CellType):
                self.home.cell_contents = value
            elif self.home is not None:
                self.home[self.name] = value
            within()

        return undo


def rewritten(
    experiment: Experiment,
    past: Callable[[Life], object],
    act: Callable[[Life], Outputs],
    alone: Outputs,
) -> Rewritten | None:
    """The parameters that the past wrote, put back, let the act give what it gives alone."""
    fresh, life = Life(experiment), Life(experiment)
    before = dict(fresh.subject.model.named_parameters())
    lines = _Lines(life.subject.model)
    with lines:
        past(life)
    after = dict(life.subject.model.named_parameters())
    moved = [n for n, p in after.items() if n in before and not torch.equal(p, before[n])]
    if not moved or any(after[name].shape != before[name].shape for name in moved):
        return None
    with torch.no_grad():
        for name in moved:
            after[name].data.copy_(before[name])
    if differs(alone, act(life)) is not None:
        return None
    return Rewritten(tuple(moved), lines.last)


class _Lines(TorchFunctionMode):
    """Notes the last line of the user's that wrote into a parameter."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.last: str | None = None
        self._own = {p.data_ptr() for p in model.parameters()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function has run as it would have."""
        name = getattr(func, "__name__", "")
        first = args[0] if args else None
        in_place = name == "__set__" or name.startswith("__i") or name.rstrip("_") + "_" == name
        if in_place and isinstance(first, Tensor) and first.data_ptr() in self._own:
            self.last = source_here() or self.last
        return func(*args, **(kwargs or {}))


def strayed(
    experiment: Experiment,
    past: Callable[[Life], object],
    act: Callable[[Life], Outputs],
) -> Stray | None:
    """The name that, given back after the past what it held, lets the act give what it gave."""
    every = list(_strays(experiment))
    before = [held(each.now) for each in every]
    past(Life(experiment))
    moved = [e for e, kept in zip(every, before, strict=True) if not same(kept, held(e.now))]
    return next((each for each in moved if _carries(experiment, each, past, act)), None)


def _carries(
    experiment: Experiment,
    stray: Stray,
    past: Callable[[Life], object],
    act: Callable[[Life], Outputs],
) -> bool:
    undo = stray.kept()
    try:
        alone = act(Life(experiment))
        undo()
        past(Life(experiment))
        undo()
        return differs(alone, act(Life(experiment))) is None
    finally:
        undo()


def has_samples(experiment: Experiment, stray: Stray) -> bool:
    """Whether it holds a tensor with an axis as long as the batch."""
    leaves: Leaves = held(stray.now)
    return any(isinstance(leaf, Tensor) and experiment.size in leaf.shape for _, leaf in leaves)


def _strays(experiment: Experiment) -> Iterator[Stray]:
    """Names of the code of the model's modules, then of the subject's functions."""
    subject, seen = experiment.subject, set[int]()
    for name, module in every_module(subject.model):
        for kind in type(module).__mro__:
            if kind is nn.Module:
                break
            for method in vars(kind).values():
                yield from _of(getattr(method, "__func__", method), name, seen)
    for function in (subject.loss, subject.predict, subject.train_step):
        yield from _of(function, LOSS, seen)


def _of(function: Any, site: str, seen: set[int]) -> Iterator[Stray]:
    """Names of the function, and of the user's own functions that it calls."""
    function = inspect.unwrap(function) if callable(function) else function
    if not isinstance(function, FunctionType) or id(function) in seen:
        return
    if source_of_code(function) is None:
        return
    seen.add(id(function))
    whole = function.__qualname__.replace("<locals>.", "")
    for name, value in _defaults(function):
        words = f"the default value of `{name}` in `{whole}`"
        yield Stray(site, words, name, function, value, None)
    cells = function.__closure__ or ()
    for name, cell in zip(function.__code__.co_freevars, cells, strict=True):
        yield from _named(function, site, name, cell, f"`{name}`, around `{whole}`", seen)
    for name in sorted(_names(function.__code__) & function.__globals__.keys()):
        words = f"the global `{name}`"
        yield from _named(function, site, name, function.__globals__, words, seen)


def _named(
    function: FunctionType,
    site: str,
    name: str,
    home: MutableMapping[str, Any] | CellType,
    words: str,
    seen: set[int],
) -> Iterator[Stray]:
    value = _content(home) if isinstance(home, CellType) else home[name]
    if isinstance(value, FunctionType):
        yield from _of(value, site, seen)
    elif not isinstance(value, (type, ModuleType, nn.Module)) and not callable(value):
        yield Stray(site, words, name, function, value, home)


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # nothing is in it yet
        return None


def _defaults(function: FunctionType) -> Iterator[tuple[str, Any]]:
    for name, parameter in inspect.signature(function).parameters.items():
        value = parameter.default
        if isinstance(value, (list, dict, set, Tensor)) or hasattr(value, "__dict__"):
            yield name, value


def _names(code: CodeType) -> set[str]:
    """Every global name that the code, or code within it, asks for."""
    inner = [each for each in code.co_consts if isinstance(each, CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def _written(code: CodeType, name: str) -> Iterator[int]:
    """The lines at which a name is bound, or what it holds is written."""
    lines, first = inspect.getsourcelines(code)
    try:
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except SyntaxError:  # made within a line
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assign, ast.AugAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(_is(name, each) for each in targets):
                yield first + node.lineno - 1
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            writes = node.func.attr in WRITES or node.func.attr.endswith("_")
            if writes and _is(name, node.func.value):
                yield first + node.lineno - 1


def _is(name: str, node: ast.expr) -> bool:
    while isinstance(node, (ast.Subscript, ast.Attribute)):
        node = node.value
    if isinstance(node, ast.Tuple):
        return any(_is(name, each) for each in node.elts)
    return isinstance(node, ast.Name) and node.id == name
