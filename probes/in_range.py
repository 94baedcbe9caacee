"""Off the processor an index out of range ends the process: it raises before the device sees it.

CUDA checks indices and probabilities by an assertion on the device, after which nothing there can
be computed or read any more. The processor raises an exception instead, and so do operators here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from probes.wrapped import local

Look = Callable[[Sequence[Any]], None]


@contextmanager
def as_on_the_processor(model: nn.Module) -> Iterator[None]:
    """What would raise on the processor raises; a recurrence has gradients in evaluation mode.

    Nothing changes where the whole model lies on the processor.
    """
    homes = {tensor.device.type for tensor in chain(model.parameters(), model.buffers())}
    with ExitStack() as stack:
        if homes - {"cpu", "meta"}:
            stack.enter_context(InRange())  # type: ignore[no-untyped-call]
            if any(isinstance(module, nn.RNNBase) for module in model.modules()):
                # cuDNN's have a backward pass in training mode alone
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


class InRange(TorchDispatchMode):
    """An operator that picks by indices, or reads probabilities, has looked at them first.

    Raises IndexError or RuntimeError, as the processor does.
    """

    supports_higher_order_operators = True

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The operator has run."""
        look = LOOKS.get(getattr(func, "overloadpacket", None))
        if look is not None:
            look(args)
        return func(*args, **(kwargs or {}))


def _table(args: Sequence[Any]) -> None:
    """embedding: (weight, indices)."""
    _within(args[1], args[0].shape[0], 0, negative=False)


def _along(args: Sequence[Any]) -> None:
    """gather, scatter, index_select: (self, dim, index)."""
    size = args[0].shape[args[1]] if args[0].ndim else 1
    _within(args[2], size, args[1], negative=False)


def _each(args: Sequence[Any]) -> None:
    """index, index_put: (self, one index or none for each axis)."""
    axis = 0
    for index in args[1]:
        if index is not None and index.dtype in (torch.bool, torch.uint8):
            axis += index.ndim
            continue
        if index is not None:
            _within(index, args[0].shape[axis], axis, negative=True)
        axis += 1


def _any(args: Sequence[Any]) -> None:
    """take, put: (self, index), which counts all elements."""
    _within(args[1], args[0].numel(), 0, negative=True)


def _classes(args: Sequence[Any]) -> None:
    """nll_loss: (scores, target, weight, reduction, ignore_index)."""
    scores, target = args[0], args[1]
    axis = 1 if scores.ndim > 1 else 0
    wanted = target[target != args[4]] if len(args) > 4 else target
    _within(wanted, scores.shape[axis], axis, negative=False, called="class label")


def _shares(args: Sequence[Any]) -> None:
    """bernoulli, binary_cross_entropy: (probabilities, ...)."""
    low, high = _ends(args[0])
    if not (low >= 0 and high <= 1):
        raise RuntimeError(
            f"numbers from 0 to 1 were expected, but they reach from {low:.6g} to {high:.6g}"
        )


def _weights(args: Sequence[Any]) -> None:
    """multinomial: (weights, ...)."""
    low, high = _ends(args[0])
    if not (low >= 0 and high < float("inf")):
        raise RuntimeError(
            "probability tensor contains either inf, nan or element < 0: it reaches from "
            f"{low:.6g} to {high:.6g}"
        )


def _within(index: Any, size: int, axis: int, *, negative: bool, called: str = "index") -> None:
    if not isinstance(index, Tensor):
        return
    low, high = _ends(index)
    bad = low if low < (-size if negative else 0) else high if high >= size else None
    if bad is not None:
        raise IndexError(f"{called} {int(bad)} is out of range for axis {axis} of size {size}")


def _ends(tensor: Tensor) -> tuple[float, float]:
    """The smallest and the largest number; both 0 where there is none, NaN where one is."""
    own = local(tensor.detach())
    if own.numel() == 0:
        return 0, 0
    low, high = torch.aminmax(own)
    return low.item(), high.item()


_ATEN = torch.ops.aten
LOOKS: dict[Any, Look] = {
    **dict.fromkeys(
        (_ATEN.embedding, _ATEN._embedding_bag, _ATEN._embedding_bag_forward_only), _table
    ),
    **dict.fromkeys(
        (
            _ATEN.gather,
            _ATEN.index_select,
            _ATEN.scatter,
            _ATEN.scatter_,
            _ATEN.scatter_add,
            _ATEN.scatter_add_,
            _ATEN.scatter_reduce,
            _ATEN.scatter_reduce_,
            _ATEN.index_add,
            _ATEN.index_add_,
            _ATEN.index_copy,
            _ATEN.index_copy_,
            _ATEN.index_fill,
            _ATEN.index_fill_,
        ),
        _along,
    ),
    **dict.fromkeys(
        (_ATEN.index, _ATEN.index_put, _ATEN.index_put_, _ATEN._index_put_impl_), _each
    ),
    **dict.fromkeys((_ATEN.take, _ATEN.put, _ATEN.put_), _any),
    **dict.fromkeys((_ATEN.nll_loss_forward, _ATEN.nll_loss2d_forward), _classes),
    **dict.fromkeys((_ATEN.bernoulli, _ATEN.bernoulli_, _ATEN.binary_cross_entropy), _shares),
    _ATEN.multinomial: _weights,
}
