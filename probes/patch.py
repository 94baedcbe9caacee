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
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from probes.batch import leaves
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


class Edited(TorchDispatchMode):
    """While it is entered, chosen calls read other numbers, and so do their backward passes.

    chosen: is asked of every operator by its name, `aten.log`. edit: what a chosen one reads.
    `calls` counts those that were edited.

    A tensor that the backward pass has saved is known by its memory and replaced there too; a
    number that it derives from the arguments, and that is not finite, is 0 there.
    """

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: torch would import its compiler at the first operator, which takes seconds."""
        return False

    def __init__(self, chosen: Callable[[str], bool], edit: Edit) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls = 0
        self._chosen = chosen
        self._edit = edit
        self._saved: dict[int, list[tuple[Tensor, Tensor]]] = {}  # by sequence: from, to

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The operator has run, on other numbers where it was chosen."""
        node, kwargs = torch._C._current_autograd_node(), kwargs or {}
        saved = self._saved.get(node._sequence_nr()) if node is not None else None
        if saved is not None:
            args = [_replaced(each, saved) for each in args]
        elif self._chosen(func._schema.name.replace("::", ".")):
            args, kwargs = self._edited(func, args, kwargs)
        return func(*args, **kwargs)

    def _edited(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments:
        self.calls += 1
        sequence = torch.autograd._get_sequence_nr() - 1  # type: ignore[attr-defined]
        saved = self._saved.setdefault(sequence, [])
        edited, kwargs = self._edit(args, kwargs)
        new = list(edited)
        for place, (old, other) in enumerate(zip(args, new, strict=True)):
            if isinstance(old, Tensor) and other is not old:
                alias = func._schema.arguments[place].alias_info
                if alias is not None and alias.is_write:  # it writes where it reads
                    old.copy_(other)
                    new[place] = old
                else:
                    saved.append((old, other))
        return new, kwargs


def _replaced(value: Any, saved: Sequence[tuple[Tensor, Tensor]]) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return 0.0
    if not isinstance(value, Tensor) or value.layout is not torch.strided:
        return value
    for old, new in saved:
        if _is_same(value, old):
            return new
    if value.ndim == 0 and value.is_floating_point() and not value.isfinite():
        return torch.zeros_like(value)
    return value


def _is_same(one: Tensor, two: Tensor) -> bool:
    return (
        one.layout is two.layout
        and one.data_ptr() == two.data_ptr()
        and one.shape == two.shape
        and one.stride() == two.stride()
    )


SOFTMAX = (torch.softmax, F.softmax, Tensor.softmax, torch.special.softmax)
SIGMOID = (torch.sigmoid, F.sigmoid, Tensor.sigmoid, torch.special.expit)
LOGS = (torch.log, Tensor.log)
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
    """While it is entered, the log of a softmax, or of a sigmoid, is computed in one.

    chosen: is asked at each such log. `calls` counts those that were replaced.

    What was picked out of a softmax's result, or reshaped, is still known to be its own.
    """

    def __init__(self, chosen: Callable[[], bool]) -> None:
        super().__init__()
        self.calls = 0
        self._chosen = chosen
        self._logs = WeakTensorKeyDictionary()  # result of a softmax -> its log

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
        known = self._logs.get(first) if isinstance(first, Tensor) else None
        if func in LOGS and known is not None and self._chosen():
            self.calls += 1
            return known
        out = func(*args, **kwargs)
        if func in SOFTMAX and isinstance(first, Tensor):
            self._logs[out] = torch.log_softmax(first, *_of_log_softmax(args[1:], kwargs))
        elif func in SIGMOID and isinstance(first, Tensor):
            self._logs[out] = F.logsigmoid(first)
        elif known is not None and func in CARRY:
            self._remember(out, func(known, *args[1:], **kwargs))
        return out

    def _remember(self, out: Any, logs: Any) -> None:
        pairs = [(out, logs)] if isinstance(out, Tensor) else zip(out, logs, strict=True)
        for one, log in pairs:
            self._logs[one] = log


def _of_log_softmax(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    dim = args[0] if args else kwargs.get("dim")
    return (-1 if dim is None else dim,)


class Widened(TorchDispatchMode):
    """While it is entered, chosen operators that would turn to a narrower float give `to`.

    chosen: is asked without an argument. `calls` counts those that did.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No, as `Edited`."""
        return False

    def __init__(self, chosen: Callable[[], bool], to: torch.dtype = torch.float32) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
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
    """Floats of the model and the batch that are narrower than `to` are held in it."""
    tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
    tensors += [leaf for leaf in leaves(batch).values() if isinstance(leaf, Tensor)]
    narrow = [(each, each.data) for each in tensors if _is_narrower(each.dtype, to)]
    try:
        for each, data in narrow:
            each.data = data.to(to)
        yield
    finally:
        for each, data in narrow:
            each.data = data


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
