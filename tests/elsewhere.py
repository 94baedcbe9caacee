"""A device that is not the processor, on a machine that has no other: what mixes the two raises.

Its tensors claim to lie on `meta`, and hold their numbers beside it. As on an accelerator, an
operator that is given some of them and a tensor of the processor with an axis raises, so do
`.numpy()` and random numbers of a generator of the processor's, and `.cpu()` gives the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

ATEN = torch.ops.aten
NAME = "meta"
MAY_MIX = {  # indices, numbers and lengths of the processor, on any device
    ATEN.index.Tensor,
    ATEN.index_put.default,
    ATEN.index_put_.default,
    ATEN._index_put_impl_.default,
    ATEN.copy_.default,
    ATEN._ctc_loss.Tensor,
    ATEN._pack_padded_sequence.default,
    ATEN._pack_padded_sequence_backward.default,
    ATEN._pad_packed_sequence.default,
}


class There(Tensor):
    """A tensor that claims to lie on the other device; `held` is what it holds."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> There:
        strided = held.layout is torch.strided
        made: There = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride() if strided else None,
            storage_offset=held.storage_offset() if strided else 0,
            dtype=held.dtype,
            layout=held.layout,
            device=torch.device(NAME),
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, other: There) -> None:
        torch._C.TensorBase.data.__set__(self, other)
        self.held = other.held

    def new_tensor(self, *args: Any, **kwargs: Any) -> Tensor:
        return There(self.held.new_tensor(*args, **kwargs))

    def tolist(self) -> Any:
        return self.held.tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            made: Tensor = There(self.held.clone())
            if isinstance(self, torch.nn.Parameter):
                made = torch.nn.Parameter(made, self.requires_grad)
            made.requires_grad_(self.requires_grad)
            made.grad = None if self.grad is None else self.grad.detach().clone()
            memo[id(self)] = made
        return memo[id(self)]


def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What the operator gives, on the device that it is asked for."""
    given = tree_leaves((args, kwargs))
    there = any(isinstance(each, There) for each in given)
    asked = kwargs.get("device")
    stays = there if asked is None else torch.device(asked).type == NAME
    _refuse_mixed(func, given, there, stays)
    own_args, own = tree_map_only(There, lambda t: t.held, (args, kwargs))
    if asked is not None:
        own["device"] = torch.device("cpu")
    out = func(*own_args, **own)
    if func is ATEN._pack_padded_sequence.default and there:
        return There(out[0]), out[1]  # how many rows each step has stays on the processor
    if stays:
        out = tree_map_only(Tensor, There, out)
        return return_and_correct_aliasing(func, args, kwargs, out) if there else out
    held = [each.held for each in given if isinstance(each, There)]
    return out.clone() if any(out is each for each in held) else out


def _refuse_mixed(func: Any, given: list[Any], there: bool, stays: bool) -> None:
    tensors = [each for each in given if isinstance(each, Tensor)]
    if there and func not in MAY_MIX and any(t.ndim and not isinstance(t, There) for t in tensors):
        raise RuntimeError(f"{func}: Expected all tensors to be on the same device")
    if stays and any(isinstance(each, torch.Generator) for each in given):
        raise RuntimeError(f"{func}: Expected another device type for generator but found 'cpu'")


class _Made(TorchFunctionMode):
    """Numbers of Python become tensors there, which torch does below its operators."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor):
            device = kwargs.get("device") or torch.get_default_device()
            if torch.device(device).type == NAME:
                asks = {**kwargs, "device": "cpu"}
                learns = asks.pop("requires_grad", False)
                return There(func(*args, **asks)).requires_grad_(learns)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[1], list):
            args = (args[0], torch.tensor(args[1], device="cpu"), *args[2:])  # as torch does below
        if func is torch.unravel_index and isinstance(args[0], There):  # makes some on its way
            return tuple(There(each) for each in func(args[0].held, *args[1:], **kwargs))
        return func(*args, **kwargs)


class _Computed(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


@contextmanager
def elsewhere() -> Iterator[str]:
    """While it is open there is the other device, by the name that it gives."""
    with _Made(), _Computed():
        yield NAME
