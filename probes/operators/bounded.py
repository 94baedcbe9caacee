"""Follows keys of a batch through what bounds their numbers, to where these are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from probes.operators.normed import SHAPES, TURNS
from probes.raised import own_frame, source_here
from probes.running import at_work, names_of

BOUNDS = {
    *("clamp", "clip", "clamp_min", "clamp_max", "relu", "relu6", "hardtanh", "threshold"),
    *("maximum", "minimum", "max", "min", "fmax", "fmin", "nan_to_num"),
    *("where", "masked_fill", "setitem"),
}
OF_TWO = {"where", "maximum", "minimum", "max", "min", "fmax", "fmin"}  # in any order
MADE = {
    *("zeros", "ones", "full", "tensor", "scalar_tensor", "zeros_like", "ones_like", "full_like"),
    *("new_zeros", "new_ones", "new_full", "new_tensor"),
}
COMPARISONS = {
    *("ge", "gt", "le", "lt", "eq", "ne", "isnan", "isfinite", "isinf"),
    *("greater", "greater_equal", "less", "less_equal", "not_equal"),
}
KEPT = {
    *SHAPES,
    *("float", "double", "half", "bfloat16", "long", "int", "short", "to", "type", "type_as"),
    *(
        "contiguous",
        "clone",
        "detach",
        "cpu",
        "cuda",
        "getitem",
        "select",
        "narrow",
        "index_select",
    ),
    *("expand", "expand_as", "view_as", "reshape_as", "repeat", "ravel", "unbind", "split"),
    *("chunk", "masked_select", "index_select", "flip", "roll"),
}
LEAVES_OUT: dict[Callable[..., Any], int] = {F.cross_entropy: 4, F.nll_loss: 4}
"""Losses that compare labels themselves, with the place of the number that they leave out."""
UNNAMED = -100  # that number by default, which nobody may have thought of


@dataclass(frozen=True, slots=True, eq=False)
class Bound:
    """What one operator made of a key's numbers. code: the user's function that called it.

    order: how many operators of the kind ran before. at: the modules at work, the innermost first.
    """

    order: int
    op: str
    before: Tensor
    after: Tensor
    at: tuple[str, ...]
    source: str | None
    code: CodeType | None


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """A comparison of a key's numbers that came out the same everywhere, and would not have.

    answer, raw: what it gave, and what it gives where nothing bounds the key. values: the key's
    own numbers at these places. bounds: what they went through. order, at, code: as of a Bound.
    """

    key: str
    order: int
    op: str
    answer: Tensor
    raw: Tensor
    values: Tensor
    bounds: tuple[Bound, ...]
    at: tuple[str, ...]
    source: str | None
    code: CodeType | None

    @property
    def lost(self) -> Tensor:
        """Where it would have come out otherwise."""
        return self.raw != self.answer


@dataclass(frozen=True, slots=True, eq=False)
class _Followed:
    """own: the key's own numbers in the shape, order and format of what is followed."""

    key: str
    own: Tensor
    bounds: tuple[Bound, ...] = ()


class Bounded(TorchFunctionMode):
    """While it is entered, `found` lists comparisons that what bounds a key has settled.

    telling: lines of code whose comparisons came out in two ways at least once. answers: what
    comparisons are to give, by their order. results: what bounds are to give, by theirs.
    """

    def __init__(
        self,
        model: nn.Module,
        given: Mapping[str, Tensor],
        answers: Mapping[int, Tensor] | None = None,
        results: Mapping[int, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.found: list[Compared] = []
        self.telling: set[str | None] = set()
        self._names = names_of(model)
        self._known = WeakTensorKeyDictionary()
        for key, tensor in given.items():
            self._known[tensor] = _Followed(key, tensor.detach().clone())
        self._made = WeakTensorKeyDictionary()
        self._answers, self._results = answers or {}, results or {}
        self._bounds = self._comparisons = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The function's result, or the one it is to give."""
        given = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        plain = name.strip("_")
        if func in LEAVES_OUT:
            return func(*self._with_labels(func, args, given), **given)
        if plain in COMPARISONS and args:
            return self._compare(func, plain, args, given)
        known = self._first(args)
        if known is not None and plain in BOUNDS and self._is_bounded(plain, known, args, given):
            return self._bound(func, plain, known, args, given)
        out = func(*args, **given)
        if plain in MADE and isinstance(out, Tensor):
            self._made[out] = True
        elif _is_in_place(name) and isinstance(args[0], Tensor):
            self._known.pop(args[0], None)
            self._made.pop(args[0], None)
        elif known is not None and known is args[0]:
            self._keep(func, plain, args, given, out)
        return out

    def _first(self, args: Any) -> Tensor | None:
        return next((e for e in args if isinstance(e, Tensor) and e in self._known), None)

    def _is_bounded(self, op: str, known: Tensor, args: Any, kwargs: Mapping[str, Any]) -> bool:
        """Whether some of its numbers become one that the code names, and not another's."""
        if known is not args[0] and op not in OF_TWO:
            return False
        given = args[2:] if op in ("masked_fill", "setitem") else args
        tensors = [e for e in (*given, *kwargs.values()) if isinstance(e, Tensor)]
        return all(e is known or e in self._made or e.dtype is torch.bool for e in tensors)

    def _keep(self, func: Any, op: str, args: Any, kwargs: Mapping[str, Any], out: Any) -> None:
        if op not in KEPT and func not in TURNS:
            return
        known: _Followed = self._known[args[0]]
        own = func(known.own, *args[1:], **kwargs)
        pairs = [(out, own)] if isinstance(out, Tensor) else zip(out, own, strict=True)
        for one, two in pairs:
            if one.shape == two.shape:
                self._known[one] = _Followed(known.key, two, known.bounds)

    def _bound(
        self, func: Any, op: str, known: Tensor, args: Any, kwargs: Mapping[str, Any]
    ) -> Any:
        followed: _Followed = self._known[known]
        before = known.detach().clone()
        out = func(*args, **kwargs)
        after = args[0] if op == "setitem" else out
        if not isinstance(after, Tensor) or after.shape != before.shape:
            return out
        order, self._bounds = self._bounds, self._bounds + 1
        if order in self._results:
            after.data.copy_(self._results[order])
        bound = Bound(order, op, before, after.detach().clone(), *self._here())
        self._known[after] = _Followed(followed.key, followed.own, (*followed.bounds, bound))
        return out

    def _compare(self, func: Any, op: str, args: Any, kwargs: Mapping[str, Any]) -> Any:
        out = func(*args, **kwargs)
        if not isinstance(out, Tensor) or out.dtype is not torch.bool or not out.numel():
            return out
        if bool(out.any()) and not bool(out.all()):
            self.telling.add(source_here())
        known = self._first(args)
        if known is None or not self._known[known].bounds or known.shape != out.shape:
            return out
        others = [e for e in args if isinstance(e, Tensor) and e not in self._known]
        if any(each.numel() != 1 for each in others):
            return out
        own = [self._known[e].own if self._is_known(e) else e for e in args]
        return self._settled(op, self._known[known], out, func(*own, **kwargs))

    def _is_known(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value in self._known

    def _settled(self, op: str, known: _Followed, answer: Tensor, raw: Tensor) -> Tensor:
        """What the comparison is to give; it is noted where it says nothing and would have."""
        order, self._comparisons = self._comparisons, self._comparisons + 1
        same = bool((answer == answer.flatten()[0]).all())
        if same and raw.shape == answer.shape and not torch.equal(raw, answer):
            of = known.key, order, op, answer.clone(), raw, known.own, known.bounds
            self.found.append(Compared(*of, *self._here()))
        return self._answers.get(order, answer)

    def _with_labels(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """The arguments of a loss of classes, with the labels that it is to be given."""
        labels = args[1] if len(args) > 1 else kwargs.get("target")
        at = LEAVES_OUT[func]
        number = args[at] if len(args) > at else kwargs.get("ignore_index", UNNAMED)
        if not isinstance(labels, Tensor) or labels not in self._known:
            return args
        if number == UNNAMED or labels.is_floating_point() or not labels.numel():
            return args
        known: _Followed = self._known[labels]
        counted = labels != number
        if bool(counted.any()) and not bool(counted.all()):
            self.telling.add(source_here())
        if not known.bounds:
            return args
        told = self._settled(func.__name__, known, counted, known.own != number)
        if told is counted:
            return args
        labels = labels.masked_fill(~told, number)
        if len(args) > 1:
            return (args[0], labels, *args[2:])
        kwargs["target"] = labels
        return args

    def _here(self) -> tuple[tuple[str, ...], str | None, CodeType | None]:
        frame = own_frame()
        code = None if frame is None else frame.f_code
        return tuple(dict.fromkeys(at_work(self._names))), source_here(), code


def _is_in_place(name: str) -> bool:
    if name == "__setitem__":
        return True
    own = name.startswith("__")
    return name.startswith("__i") if own else name.endswith("_")
