"""Runs code with a fix in place: chosen calls read other numbers, or are other calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from probes.batch import leaves, sample_axes
from probes.layout import Layout
from probes.operator_mode import OperatorMode
from probes.sequences import Sequences, is_same
from probes.subject import Batch

Arguments = tuple[Sequence[Any], Mapping[str, Any]]
Edit = Callable[[Sequence[Any], Mapping[str, Any]], Arguments]
"""Takes the arguments of a call and returns those that it gets instead, as many."""


def argument(place: int, change: Callable[[Tensor], Tensor]) -> Edit:
    """The edit that changes the tensor at the place; a call without one there stays as it is."""

    def edit(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments:
        if place >= len(args) or not isinstance(args[place], Tensor):
            return args, kwargs
        return [*args[:place], change(args[place]), *args[place + 1 :]], kwargs

    return edit


class Edited(OperatorMode):
    """While it is entered, chosen calls read other numbers, and so do their backward passes.

    chosen: is asked of every operator by its name, `aten.log`. edit: what a chosen one reads.
    `calls` counts those that were edited.

    A tensor that the backward pass has saved is known by its memory and replaced there too, and
    so is a number that was changed; one that it derives from the arguments, and that is not
    finite, is 0 there.
    """

    def __init__(self, chosen: Callable[[str], bool], edit: Edit) -> None:
        super().__init__()
        self.calls = 0
        self._chosen = chosen
        self._edit = edit
        self._sequences = Sequences()
        self._saved: dict[int, list[_Saved]] = {}  # by sequence

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The operator has run, on other numbers where it was chosen."""
        node, kwargs = torch._C._current_autograd_node(), kwargs or {}
        name = func._schema.name.replace("::", ".")
        saved = self._saved.get(node._sequence_nr()) if node is not None else None
        forward = torch.is_grad_enabled()  # within the backward pass too, where it is recomputed
        if saved is not None and not forward:
            args = [_replaced(each, saved, name) for each in args]
        elif self._chosen(name):
            args, kwargs = self._edited(func, name, args, kwargs)
        out = func(*args, **kwargs)
        self._sequences.saw(name, args, out)
        return out

    def _edited(
        self, func: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Arguments:
        self.calls += 1
        edited, kwargs = self._edit(args, kwargs)
        over = _overwritten(func, args)
        clone = self._sequences.saved(over)
        saved = self._saved.setdefault(self._sequences.of(over), [])
        new = list(edited)
        for place, (old, other) in enumerate(zip(args, new, strict=True)):
            if other is old:
                continue
            if over is not None and old is over:  # it writes where it reads
                over.copy_(other)
                if clone is not None:
                    clone.copy_(other)
                new[place] = old
            elif isinstance(old, (Tensor, int, float)) and not isinstance(old, bool):
                saved.append((name, old, other))
        return new, kwargs


_Saved = tuple[str, Any, Any]
"""An operator, what it was to read, and what it read instead."""


def _overwritten(func: Any, args: Sequence[Any]) -> Tensor | None:
    """The argument that the operator writes in place."""
    for value, argument in zip(args, func._schema.arguments, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write:
            return value if isinstance(value, Tensor) else None
    return None


def _replaced(value: Any, saved: Sequence[_Saved], name: str) -> Any:
    """What a backward pass reads: a number only where it calls the same operator."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        changed = (new for op, old, new in saved if op == name and _is_number(old, value))
        return next(changed, value if math.isfinite(value) else 0.0)
    if not isinstance(value, Tensor) or value.layout is not torch.strided:
        return value
    for _, old, new in saved:
        if isinstance(old, Tensor) and is_same(value, old):
            return new
    if value.ndim == 0 and value.is_floating_point() and not value.isfinite():
        return torch.zeros_like(value)
    return value


def _is_number(old: Any, value: float) -> bool:
    return not isinstance(old, Tensor) and bool(old == value)


SOFTMAX = (torch.softmax, F.softmax, Tensor.softmax, torch.special.softmax)
SIGMOID = (torch.sigmoid, F.sigmoid, Tensor.sigmoid, torch.special.expit)
LOGS = (torch.log, Tensor.log, Tensor.log_)
LOGS_1P = (torch.log1p, Tensor.log1p, Tensor.log1p_)
NEGATIVES = (torch.neg, Tensor.neg, Tensor.__neg__)
DIFFERENCES = (torch.rsub, Tensor.__rsub__)
CARRY = frozenset(  # the same numbers, or some of them
    getattr(owner, name)
    for name in (
        *("gather", "index_select", "masked_select", "select", "narrow", "take_along_dim"),
        *("reshape", "flatten", "squeeze", "unsqueeze", "transpose", "permute", "t", "clone"),
        *("movedim", "swapaxes", "diagonal", "split", "chunk", "unbind"),
    )
    for owner in (torch, Tensor)
    if hasattr(owner, name)
) | {Tensor.__getitem__, Tensor.view, Tensor.contiguous, Tensor.expand, Tensor.view_as}


class LogOfSoftmax(TorchFunctionMode):
    """While it is entered, the log of a softmax, or of a sigmoid or its rest, is computed in one.

    chosen: is asked at each such log. `calls` counts those that were replaced.

    What was picked out of a softmax's result, or reshaped, is still known to be its own; what was
    written in place is not.
    """

    def __init__(self, chosen: Callable[[], bool]) -> None:
        super().__init__()
        self.calls = 0
        self._chosen = chosen
        self._logs = _Known()  # p -> log p
        self._rests = _Known()  # p -> log (1 - p)
        self._negatives = _Known()  # -p -> log (1 - p)

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The function's result; that of a log was computed from what the softmax was given."""
        kwargs = kwargs or {}
        first = args[0] if args else None
        if not isinstance(first, Tensor):
            return func(*args, **kwargs)
        known = (self._logs if func in LOGS else self._negatives).of(first)
        if func in LOGS + LOGS_1P and known is not None and self._chosen():
            self.calls += 1
            return first.copy_(known) if func.__name__.endswith("_") else known
        rest, log = self._rests.of(first), self._logs.of(first)
        out = func(*args, **kwargs)
        if func in SOFTMAX:
            self._logs.add(out, torch.log_softmax(first, *_of_log_softmax(args[1:], kwargs)))
        elif func in SIGMOID:
            self._logs.add(out, F.logsigmoid(first))
            self._rests.add(out, F.logsigmoid(-first))
        elif func in DIFFERENCES and args[1:2] in ((1,), (1.0,)):
            self._logs.add(out, rest)
            self._rests.add(out, log)
        elif func in NEGATIVES:
            self._negatives.add(out, rest)
        elif func in CARRY:
            for each, old in ((self._logs, log), (self._rests, rest)):
                each.add(out, None if old is None else func(old, *args[1:], **kwargs))
        return out


class _Known:
    """What belongs to a tensor, as long as nobody writes the tensor in place."""

    def __init__(self) -> None:
        self._known = WeakTensorKeyDictionary()

    def of(self, tensor: Tensor) -> Tensor | None:
        found = self._known.get(tensor)
        return found[1] if found is not None and found[0] == tensor._version else None

    def add(self, out: Any, known: Any) -> None:
        """Known belongs to the result, or one to each of several; nothing does if it is None."""
        if known is None:
            return
        pairs = [(out, known)] if isinstance(out, Tensor) else zip(out, known, strict=True)
        for one, log in pairs:
            self._known[one] = one._version, log


def _of_log_softmax(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    dim = args[0] if args else kwargs.get("dim")
    return (-1 if dim is None else dim,)


class Widened(OperatorMode):
    """While it is entered, chosen operators that would turn to a narrower float give `to`.

    chosen: is asked without an argument. `calls` counts those that did.
    """

    def __init__(self, chosen: Callable[[], bool], to: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.calls = 0
        self._chosen = chosen
        self._to = to

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The operator has run in the wider float where a narrower one was asked for."""
        kwargs = dict(kwargs or {})
        if _is_narrower(kwargs.get("dtype"), self._to) and self._chosen():
            self.calls += 1
            kwargs["dtype"] = self._to
        return func(*args, **kwargs)


@contextmanager
def wider(model: nn.Module, batch: Batch, to: torch.dtype) -> Iterator[None]:
    """Floats of the model and the batch that are narrower than `to` are held in it.

    Gradients that parameters came with, as from a training before, are away meanwhile.
    """
    tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
    tensors += [leaf for leaf in leaves(batch).values() if isinstance(leaf, Tensor)]
    narrow = [(each, each.data) for each in tensors if _is_narrower(each.dtype, to)]
    came = [(each, each.grad) for each, _ in narrow if each.is_leaf and each.grad is not None]
    try:
        for each, _ in came:
            each.grad = None
        for each, data in narrow:
            each.data = data.to(to)
        yield
    finally:
        for each, data in narrow:
            each.data = data
        for each, grad in came:
            each.grad = grad


def _is_narrower(dtype: Any, than: torch.dtype) -> bool:
    return (
        isinstance(dtype, torch.dtype)
        and dtype.is_floating_point
        and (dtype.itemsize < than.itemsize)
    )


@contextmanager
def made_finite(tensors: Sequence[Tensor]) -> Iterator[None]:
    """The tensors hold zeros where they are not finite."""
    kept = [(each, each.data.clone()) for each in tensors]
    try:
        for each, _ in kept:
            each.data.nan_to_num_(0.0, 0.0, 0.0)
        yield
    finally:
        for each, data in kept:
            each.data.copy_(data)


@contextmanager
def only_samples(batch: Batch, kept: Sequence[int], layout: Layout | None = None) -> Iterator[None]:
    """The batch's tensors hold these samples alone.

    Raises ValueError where something in it that has samples is no tensor, and cannot be cut.
    """
    found = leaves(batch)
    axes = sample_axes(batch, layout)
    if not axes or not all(isinstance(found[path], Tensor) for path in axes):
        raise ValueError("the batch holds samples that cannot be left out")
    whole = [(found[path], axis, found[path].data) for path, axis in axes.items()]
    try:
        for leaf, axis, data in whole:
            leaf.data = data.index_select(axis, torch.tensor(kept, device=data.device))
        yield
    finally:
        for leaf, _, data in whole:
            leaf.data = data
