"""What modules hold beside their parameters: buffers, and what stands in plain attributes."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from probes.modules import every_module

DEEP = 4  # containers and objects within each other
MOST = 2000  # leaves that one attribute is looked at for
OWN = frozenset(vars(nn.Module())) | {"_flat_weights", "_flat_weight_refs", "_flat_weights_names"}

Leaves = tuple[tuple[str, Any], ...]
"""Paths below the attribute with the tensors, detached and copied, or plain values there."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """A buffer or plain attribute of a module; `site` is how a finding calls it."""

    module: str
    name: str
    buffer: bool

    @property
    def site(self) -> str:
        """The module's dotted name and the attribute's."""
        return f"{self.module}.{self.name}"


def attributes(model: nn.Module) -> Iterator[tuple[Attribute, Any]]:
    """Every buffer and plain attribute of every module, with its value."""
    for name, module in every_module(model):
        for key, buffer in module._buffers.items():
            yield Attribute(name, key, True), buffer
        for key, value in vars(module).items():
            if key not in OWN and not isinstance(value, (nn.Module, nn.Parameter)):
                yield Attribute(name, key, False), value


def contents(model: nn.Module) -> dict[Attribute, Leaves]:
    """What every attribute holds now, copied."""
    return {attribute: held(value) for attribute, value in attributes(model)}


def held(value: Any) -> Leaves:
    """What a value holds now, copied."""
    return tuple((path, _copied(leaf)) for path, leaf in _few(value))


def changed(
    before: Mapping[Attribute, Leaves], after: Mapping[Attribute, Leaves]
) -> list[Attribute]:
    """The attributes that hold something else afterwards, or are new."""
    return [each for each, leaves in after.items() if not same(before.get(each), leaves)]


def same(one: Leaves | None, two: Leaves | None) -> bool:
    """Whether both hold the same leaves, to the bit."""
    if one is None or two is None or len(one) != len(two):
        return False
    return all(a == b and _equal(x, y) for (a, x), (b, y) in zip(one, two, strict=True))


def holding_graphs(model: nn.Module) -> list[Attribute]:
    """The attributes that hold a tensor with an autograd graph behind it."""
    return [
        attribute
        for attribute, value in attributes(model)
        if any(isinstance(leaf, Tensor) and leaf.grad_fn is not None for _, leaf in _few(value))
    ]


def put(model: nn.Module, attribute: Attribute, value: Any) -> None:
    """The attribute of the model's own module holds the value."""
    module = dict(every_module(model))[attribute.module]
    if attribute.buffer:
        module._buffers[attribute.name] = value
    else:
        vars(module)[attribute.name] = value


def written_at(model: nn.Module, attribute: Attribute) -> str | None:
    """`file.py:line` of the last assignment to the attribute, but for those of `__init__`."""
    module = dict(every_module(model))[attribute.module]
    for kind in type(module).__mro__:
        if kind is nn.Module:
            return None
        line = _assigned_in(kind, attribute.name)
        if line is not None:
            return line
    return None


def _assigned_in(kind: type, name: str) -> str | None:
    found = []
    for key, method in vars(kind).items():
        function = inspect.unwrap(getattr(method, "fget", method) or method)
        code = getattr(function, "__code__", None)
        if code is not None and key != "__init__":
            found += [(code.co_filename, line) for line in _lines(code, name)]
    if not found:
        return None
    path, line = max(found)
    whole, here = Path(path).resolve(), Path.cwd().resolve()
    return f"{whole.relative_to(here) if here in whole.parents else whole}:{line}"


def _lines(code: CodeType, name: str) -> list[int]:
    """At which lines of its file the code writes the attribute."""
    try:
        source, first = inspect.getsourcelines(code)
        tree = ast.parse(textwrap.dedent("".join(source)))
    except (OSError, SyntaxError):  # made in a shell, or within a line
        return []
    return [
        first + node.lineno - 1
        for node in ast.walk(tree)
        if isinstance(node, (ast.stmt, ast.expr)) and _writes(node, name)
    ]


def _writes(node: ast.AST, name: str) -> bool:
    """Whether it assigns to `x.name`, to a part of it, or calls a method of it that writes."""
    if isinstance(node, (ast.Assign, ast.AugAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return any(_is_of(each, name) for target in targets for each in _flat(target))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        writes = node.func.attr in ("append", "extend", "update", "setdefault", "insert", "add")
        return (writes or node.func.attr.endswith("_")) and _is_of(node.func.value, name)
    return False


def _flat(target: ast.expr) -> list[ast.expr]:
    if isinstance(target, (ast.Tuple, ast.List)):
        return [each for part in target.elts for each in _flat(part)]
    return [target]


def _is_of(node: ast.expr, name: str) -> bool:
    while isinstance(node, (ast.Subscript, ast.Starred)):
        node = node.value
    return isinstance(node, ast.Attribute) and node.attr == name


def _few(value: Any) -> list[tuple[str, Any]]:
    found = []
    for each in _leaves(value, "", DEEP):
        found.append(each)
        if len(found) == MOST:
            break
    return found


def _leaves(value: Any, path: str, deep: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Tensor):
        if not isinstance(value, nn.Parameter):
            yield path, value
    elif value is None or isinstance(value, (bool, int, float, str)):
        yield path, value
    elif deep and isinstance(value, PackedSequence):
        yield from _leaves(value.data, path, deep - 1)
    elif deep and isinstance(value, Mapping):
        for key, child in value.items():
            yield from _leaves(child, f"{path}[{_key(key)}]", deep - 1)
    elif deep and isinstance(value, (list, tuple)):
        for i, child in enumerate(value):
            yield from _leaves(child, f"{path}[{i}]", deep - 1)
    elif deep and is_object(value):
        for name, child in vars(value).items():
            yield from _leaves(child, f"{path}.{name}", deep - 1)


def _key(key: Any) -> str:
    return repr(key) if isinstance(key, (str, int, float, bool, tuple)) else type(key).__name__


def is_object(value: Any) -> bool:
    """Whether it is a plain object of somebody's own class, such as a cache."""
    kind = type(value)
    if isinstance(value, (type, nn.Module)) or callable(value) or not hasattr(value, "__dict__"):
        return False
    return not kind.__module__.startswith(("torch.", "builtins", "transformers.configuration"))


def _copied(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


def _equal(one: Any, two: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        if one.shape != two.shape or one.dtype != two.dtype or one.device != two.device:
            return False
        if one.layout is not torch.strided or two.layout is not torch.strided:
            return True  # a sparse buffer: not known to change
        return torch.equal(_bytes(one), _bytes(two))
    return type(one) is type(two) and not isinstance(one, Tensor) and bool(one == two)


def _bytes(tensor: Tensor) -> Tensor:
    """Its bits, since not every number format can be compared."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)
