"""What may give a NaN in an optimizer's own code: read from its source, once.

It is a guess, which only decides what is kept; what is found is found by running.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import FunctionType
from typing import Any

from nan_watch.origin.sources import Kind, kind_of

ROOTS = frozenset(("sqrt", "log", "log2", "log10", "log1p"))
DIVIDING = frozenset(("div", "divide", "true_divide"))
INVERTING = frozenset(("rsqrt", "reciprocal", "log", "log2", "log10"))
ANYTHING = frozenset(("inverse", "inv", "pinv", "solve", "cholesky", "eigh", "svd", "qr", "exp"))
LESS, TIMES = frozenset(("sub", "subtract")), frozenset(("mul", "multiply"))
PLUS = frozenset(("add", "addcmul", "addcdiv"))
SAME = frozenset(("clone", "to", "float", "double", "detach", "contiguous", "view"))
SIGNED = SAME | PLUS | TIMES | DIVIDING | {"mean", "sum"}
"""Functions whose result may be below zero where what they are given is; a clamp's is not."""
BOUND = frozenset(("clamp", "clamp_min", "clip", "maximum", "max", "len", "int"))
PLAIN = frozenset(("math", "np", "numpy"))
OF_TENSORS = frozenset(("grad", "data"))


class Risk(Enum):
    """What its code has: no edge, one without a guard, or the root of a difference."""

    NONE = 0
    EDGE = 1
    DIFFERENCE = 2


def risk(kind: type) -> Risk:
    """That of a class of optimizers; of one without source it is an edge.

    Of differences: as of a mean of squares less a mean's. What comes of two numbers one of which
    stands in the code, as in `1 - beta**step`, is none. A division is guarded by what is added to
    its divisor, such as `eps`.
    """
    try:
        trees = list(_trees(kind))
    except (OSError, TypeError, SyntaxError):
        trees = []
    if not trees:
        return Risk.EDGE
    code = _Code.of([pair for tree in trees for pair in _writes(tree)])
    nodes = [node for tree in trees for node in ast.walk(tree)]
    if any(map(code.is_root, nodes)):
        return Risk.DIFFERENCE
    return Risk.EDGE if any(map(code.is_edge, nodes)) else Risk.NONE


@dataclass(frozen=True, slots=True)
class _Code:
    """Names, as they are written, of what holds a difference, and of what is held off zero.

    computed: names of what an expression gives, and no setting.
    """

    computed: set[str]
    differences: set[str] = field(default_factory=set)
    raised: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, writes: Sequence[tuple[str, ast.expr]]) -> _Code:
        """That of code which writes so."""
        code = cls({name for name, value in writes if isinstance(value, (ast.Call, ast.BinOp))})
        known = -1
        while known < len(code.differences) + len(code.raised):
            known = len(code.differences) + len(code.raised)
            code.differences.update(name for name, value in writes if code.is_difference(value))
            code.raised.update(name for name, value in writes if code.is_raised(value))
        return code

    def is_root(self, node: ast.AST) -> bool:
        """Whether a root, or a log, of a difference is taken."""
        if isinstance(node, ast.BinOp):
            root = isinstance(node.op, ast.Pow) and _is_broken(node.right)
            return root and self.is_difference(node.left)
        if not isinstance(node, ast.Call):
            return False
        name = _name(node)
        root = name in ROOTS | INVERTING or (name == "pow" and any(map(_is_broken, node.args)))
        return root and self.is_difference(_operand(node))

    def is_edge(self, node: ast.AST) -> bool:
        """Whether it divides by what nothing keeps off zero, or does what may go wrong anyhow."""
        if isinstance(node, ast.BinOp):
            if isinstance(node.op, ast.Pow) and _is_negative(node.right):
                return not self.is_raised(node.left)
            return isinstance(node.op, ast.Div) and not self.is_raised(node.right)
        if isinstance(node, ast.AugAssign):
            return isinstance(node.op, ast.Div) and not self.is_raised(node.value)
        if not isinstance(node, ast.Call):
            return False
        name = _name(node)
        if name in ANYTHING:
            return True
        if name in INVERTING or (name == "pow" and any(map(_is_negative, node.args))):
            return not self.is_raised(_operand(node))
        by = node.args[-1:] if name in DIVIDING | {"addcdiv"} else []
        return not all(map(self.is_raised, by))

    def is_difference(self, node: ast.expr) -> bool:
        """Whether it may be below zero by being one."""
        if isinstance(node, ast.BinOp):
            one, two = node.left, node.right
            if isinstance(node.op, ast.Sub):
                return not (_is_number(one) or _is_number(two))
            square = isinstance(node.op, ast.Mult) and ast.unparse(one) == ast.unparse(two)
            signed = isinstance(node.op, (ast.Add, ast.Mult, ast.Div)) and not square
            return signed and (self.is_difference(one) or self.is_difference(two))
        if not isinstance(node, ast.Call):
            return ast.unparse(node) in self.differences
        name, own = _name(node), _operand(node)
        if name in LESS:
            return not any(map(_is_number, node.args))
        given = [*node.args, *(each.value for each in node.keywords)]
        if name in PLUS and any(map(_is_negative, given)):
            return True
        factors = [own, *(node.args if name in TIMES | {"add"} else ())]
        square = name in TIMES and len({ast.unparse(each) for each in factors}) == 1
        signed = name in SIGNED and not square and any(map(self.is_difference, factors))
        return signed or ast.unparse(node.func) in self.differences

    def is_raised(self, node: ast.expr) -> bool:
        """Whether something keeps it off zero."""
        if isinstance(node, ast.BinOp):
            ends = node.left, node.right
            if isinstance(node.op, ast.Sub):
                return any(map(_is_number, ends))
            if isinstance(node.op, ast.Add):
                return any(self._is_setting(each) or self.is_raised(each) for each in ends)
            return all(map(self.is_raised, ends if isinstance(node.op, ast.Mult) else ends[:1]))
        if not isinstance(node, ast.Call):
            return _is_number(node) or ast.unparse(node) in self.raised
        name = _name(node)
        if name == "add" and not node.keywords and any(map(self._is_setting, node.args[-1:])):
            return True
        if name in BOUND or not name:
            return True
        kept = name in SAME | DIVIDING | {"add", "sqrt"} and self.is_raised(_operand(node))
        return kept or ast.unparse(node.func) in self.raised

    def _is_setting(self, node: ast.expr) -> bool:
        """Whether it may be a number that was set, such as `group["eps"]`."""
        if isinstance(node, ast.Attribute) and node.attr in OF_TENSORS:
            return False
        named = isinstance(node, (ast.Name, ast.Attribute, ast.Subscript))
        return _is_number(node) or (named and ast.unparse(node) not in self.computed)


def _writes(tree: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """What is set, written in place, or given back by a function, with the value."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            yield from ((ast.unparse(target), node.value) for target in node.targets)
        elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)) and node.value is not None:
            yield ast.unparse(node.target), node.value
        elif isinstance(node, ast.AugAssign):
            yield ast.unparse(node.target), _as_sum(node)
        elif isinstance(node, ast.Call) and _is_in_place(node):
            yield ast.unparse(_written(node)), node
        elif isinstance(node, ast.FunctionDef):
            for each in ast.walk(node):
                if isinstance(each, ast.Return) and each.value is not None:
                    yield node.name, each.value
                    yield f"self.{node.name}", each.value


def _trees(kind: type) -> Iterator[ast.AST]:
    """Its step, what that names of it, and what either names beside it; nothing of torch's."""
    found, waiting = set[Any](), _of_class(kind, "step")
    while waiting:
        function = _bare(waiting.pop())
        if function is None or function in found or not _is_read(function):
            continue
        found.add(function)
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        yield tree
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        waiting += [each for name in names for each in _of_class(kind, name)]
        beside = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        waiting += [function.__globals__.get(name) for name in beside]


def _is_read(function: FunctionType) -> bool:
    return kind_of(function.__code__.co_filename) in (Kind.USER, Kind.LIBRARY)


def _of_class(kind: type, name: str) -> list[Any]:
    """The method of that name, and those of the classes above that it may call."""
    found = list[Any]()
    for each in kind.__mro__:
        if name in vars(each):
            found.append(vars(each)[name])
            function = _bare(found[-1])
            if function is None or "__class__" not in function.__code__.co_freevars:
                break
    return found


def _bare(value: Any) -> FunctionType | None:
    """The function that it is, without what is wrapped around it."""
    own = getattr(value, "__func__", value)
    bare = inspect.unwrap(own) if isinstance(own, FunctionType) else None
    return bare if isinstance(bare, FunctionType) else None


def _name(call: ast.Call) -> str:
    """What is called, without `_foreach_` and a last underscore; nothing where no tensor is."""
    function = call.func
    if isinstance(function, ast.Attribute):
        if isinstance(function.value, ast.Name) and function.value.id in PLAIN:
            return ""
        return function.attr.removeprefix("_foreach_").removesuffix("_")
    return function.id if isinstance(function, ast.Name) else "?"


def _is_in_place(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and call.func.attr.endswith("_")


def _operand(call: ast.Call) -> ast.expr:
    """What it works on: what it is a method of, or its first argument."""
    own = call.func.value if isinstance(call.func, ast.Attribute) else call.func
    bare = own is call.func or ast.unparse(own).partition(".")[0] == "torch"
    return call.args[0] if bare and call.args else own


def _written(call: ast.Call) -> ast.expr:
    """What a call in place writes, past the calls in place whose result it is."""
    own = _operand(call)
    return _written(own) if isinstance(own, ast.Call) and _is_in_place(own) else own


def _as_sum(node: ast.AugAssign) -> ast.BinOp:
    return ast.BinOp(node.target, node.op, node.value)


def _is_number(node: ast.expr) -> bool:
    return isinstance(node.operand if isinstance(node, ast.UnaryOp) else node, ast.Constant)


def _is_negative(node: ast.expr) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and _is_number(node)


def _is_broken(node: ast.expr) -> bool:
    value = node.operand if isinstance(node, ast.UnaryOp) else node
    return isinstance(value, ast.Constant) and isinstance(value.value, float)
