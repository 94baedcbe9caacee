"""Follows what sums to one, or has unit length, along an axis, into products that sum another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from probes.operators.terms import (
    MATRICES,
    SUMS,
    TIMES,
    Contraction,
    Factor,
    of_einsum,
    of_matrices,
    of_product,
    of_sum,
)
from probes.patch import SOFTMAX
from probes.raised import source_here
from probes.running import names_of, running

SAME: tuple[Callable[..., Any], ...] = (
    *(F.dropout, Tensor.float, Tensor.to, Tensor.type_as, Tensor.contiguous, Tensor.clone),
    *(Tensor.masked_fill, torch.masked_fill, Tensor.double),
)
SHAPES = {
    *("view", "reshape", "transpose", "permute", "unsqueeze", "squeeze", "flatten", "unflatten"),
    *("movedim", "swapaxes", "swapdims", "t", "adjoint"),
}
TURNS = (Tensor.T.__get__, Tensor.mT.__get__)  # type: ignore[attr-defined]
SCALES = {  # scores that are scaled, masked or biased are scores
    *("mul", "div", "truediv", "add", "sub", "rsub", "radd", "rmul", "masked_fill", "where"),
    *("imul", "itruediv", "iadd", "float", "to", "clone", "contiguous"),
}
NORMS = {"norm", "vector_norm", "linalg_norm", "linalg_vector_norm"}
KEPT = {"clamp", "clamp_min", "add", "maximum", "max", "unsqueeze", "clip"}
NUMBERS = {"mul", "rmul", "imul", "multiply", "div", "truediv"}
DIVISIONS = {"div", "truediv", "true_divide", "divide"}
ONE, UNIT = 1e-2, 1e-2  # sums, and squared lengths, may be so far from one


@dataclass(frozen=True, slots=True, eq=False)
class Normed:
    """What was normalised. square: to unit length, else so that it sums to one.

    op, axis, shape: by which function, along which axis of what shape. scored: it is of scores that
    are products of two tensors. values: as they came, in the shape of now. learned: they have a
    gradient. moved: the shape is another.
    """

    square: bool
    op: str
    axis: int
    shape: tuple[int, ...]
    site: str
    source: str | None
    scored: bool
    values: Tensor
    learned: bool
    moved: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Crossed:
    """Something normalised that is multiplied and summed along an axis that it does not hold for.

    summed: lengths of the axes that are summed. low, high: what the sums, or the lengths, along
    them are. sure: it is the first factor of a product of matrices, as it came, and its last axis
    but one holds them. spread: the other factor is the same along the axis.
    """

    of: Normed
    summed: tuple[int, ...]
    low: float
    high: float
    sure: bool
    spread: bool


@dataclass(frozen=True, slots=True)
class Cosine:
    """A call of `cosine_similarity`, whose axis is that of both, spread over each other."""

    axis: int
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    gave: tuple[int, ...]
    site: str
    source: str | None


class NormedAxes(TorchFunctionMode):
    """While it is entered, `crossed` lists such products, and `cosines` what is made in one go."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.crossed: list[Crossed] = []
        self.cosines: list[Cosine] = []
        self._names = names_of(model)
        self._known = WeakTensorKeyDictionary()
        self._scores = WeakTensorKeyDictionary()
        self._norms = WeakTensorKeyDictionary()
        self._products = WeakTensorKeyDictionary()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The function's result; what it was given was looked at."""
        given = dict(kwargs or {})
        out = func(*args, **given)
        if isinstance(out, Tensor) and out.is_floating_point() and args:
            self._look(func, args, given, out)
        return out

    def _look(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> None:
        first = args[0]
        name = getattr(func, "__name__", "").strip("_")
        if func in MATRICES or func is torch.einsum:
            found = of_einsum(args) if func is torch.einsum else of_matrices(func, args)
            if found is not None:
                self._weigh(found, func in MATRICES)
                if not any(isinstance(each.tensor, nn.Parameter) for each in found.factors):
                    self._scores[out] = True
            return
        if not isinstance(first, Tensor):
            return
        if func is F.cosine_similarity:
            self._cosine(args, kwargs, out)
        if func in TIMES and len(args) > 1 and isinstance(args[1], Tensor):
            if first in self._known or args[1] in self._known:
                self._products[out] = of_product(first, args[1], out)
        elif func in SUMS and first in self._products:
            found = of_sum(self._products[first], first.ndim, args, kwargs)
            if found is not None:
                self._weigh(found, False)
        self._carry(func, name, args, kwargs, out)
        self._born(func, name, args, kwargs, out)

    def _carry(
        self, func: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor
    ) -> None:
        first = args[0]
        if name in SCALES and any(isinstance(e, Tensor) and e in self._scores for e in args):
            self._scores[out] = True
        if name in NORMS or (name in KEPT and first in self._norms):
            self._norms[out] = True
        if (known := self._scaled(name, args, out)) is not None:
            self._known[out] = known
            return
        known = self._known.get(first)
        if known is None:
            return
        if func in SAME and out.shape == first.shape:
            self._known[out] = known
        elif _reshapes(func, name, args, out):
            turn = torch.reshape if name == "view" else func
            shape = (out.shape,) if name == "view" else args[1:]
            values = turn(known.values, *shape, **({} if name == "view" else kwargs))
            self._known[out] = replace(known, values=values, moved=True)

    def _scaled(self, name: str, args: Sequence[Any], out: Tensor) -> Normed | None:
        """What is of unit length but for one number that it is multiplied by, such as a scale."""
        if name not in NUMBERS or len(args) < 2:
            return None
        pairs = (args[:2], args[1::-1]) if "mul" in name else (args[:2],)
        for one, two in pairs:
            known: Normed | None = self._known.get(one) if isinstance(one, Tensor) else None
            single = not isinstance(two, Tensor) or two.numel() == 1
            if known is not None and known.square and single and one.shape == out.shape:
                return known
        return None

    def _born(
        self, func: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor
    ) -> None:
        first, axis = args[0], None
        if out.ndim < (3 if func in SOFTMAX else 2):
            return
        if func in SOFTMAX:
            axis = args[1] if len(args) > 1 else kwargs.get("dim")
        elif func is F.normalize:
            power = args[1] if len(args) > 1 else kwargs.get("p", 2.0)
            axis = args[2] if len(args) > 2 else kwargs.get("dim", 1)
            axis = axis if power == 2 else None
        elif name in DIVISIONS and len(args) > 1:
            axis = self._divided(args[1], out)
        if not isinstance(axis, int):
            return
        self._known[out] = Normed(
            square=func not in SOFTMAX,
            op=name,
            axis=axis % out.ndim,
            shape=tuple(out.shape),
            site=running(self._names) or "<loss>",
            source=source_here(),
            scored=first in self._scores,
            values=out.detach(),
            learned=out.requires_grad,
        )

    def _divided(self, by: Any, out: Tensor) -> int | None:
        """The axis along which the result has unit length, as it was divided by its norm."""
        if not isinstance(by, Tensor) or by not in self._norms or by.ndim > out.ndim:
            return None
        sizes = (1,) * (out.ndim - by.ndim) + tuple(by.shape)
        axes = [i for i in range(out.ndim) if sizes[i] == 1 != out.shape[i]]
        if len(axes) != 1:
            return None
        lengths = out.detach().double().square().sum(axes[0])
        return axes[0] if _is_one(lengths[lengths > ONE], UNIT) else None

    def _weigh(self, found: Contraction, matrices: bool) -> None:
        one, two = found.factors
        for factor, other in ((one, two), (two, one)):
            known = self._known.get(factor.tensor)
            theirs = self._known.get(other.tensor)
            if known is None or (known.square and (theirs is None or not theirs.square)):
                continue
            self._compare(known, factor, other, found.summed, matrices and factor is one)

    def _compare(
        self, known: Normed, factor: Factor, other: Factor, summed: frozenset[str], first: bool
    ) -> None:
        axes = [i for i, letter in enumerate(factor.letters) if letter in summed]
        values = known.values.double()
        if not axes or values.ndim != len(factor.letters):
            return
        values = values.square() if known.square else values
        along = values.sum(axes)
        if _is_one(along, ONE):
            return
        others = [i for i in range(values.ndim) if i not in axes and values.shape[i] > 1]
        held = [i for i in others if _is_one(values.sum(i), ONE)]
        spread = any(factor.letters[i] not in other.letters for i in held)
        sure = first and not known.moved and known.axis == len(known.shape) - 2
        ends = along.sqrt() if known.square else along
        self.crossed.append(
            Crossed(
                of=replace(known, values=known.values[:0]),
                summed=tuple(values.shape[i] for i in axes),
                low=float(ends.min()),
                high=float(ends.max()),
                sure=sure and not known.square,
                spread=spread,
            )
        )

    def _cosine(self, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> None:
        pair = [*args[:2], *(kwargs[name] for name in ("x1", "x2") if name in kwargs)]
        axis = args[2] if len(args) > 2 else kwargs.get("dim", 1)
        if len(pair) == 2 and out.requires_grad:
            shapes = tuple(pair[0].shape), tuple(pair[1].shape)
            gave = tuple(out.shape)
            where = running(self._names) or "<loss>", source_here()
            self.cosines.append(Cosine(axis % (len(gave) + 1), shapes, gave, *where))


def _reshapes(func: Any, name: str, args: Sequence[Any], out: Tensor) -> bool:
    """Whether the result holds the same numbers in another shape, or order of axes."""
    if name in SHAPES or func in TURNS:
        return not any(isinstance(each, torch.dtype) for each in args)
    return name == "getitem" and out.numel() == args[0].numel() and out.ndim > args[0].ndim


def _is_one(sums: Tensor, near: float) -> bool:
    return sums.numel() > 0 and bool(((sums - 1).abs() < near).all())
