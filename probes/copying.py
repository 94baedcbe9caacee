"""A copy of a model whose tensors share memory where the model's own do."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor, nn


def copy_of(model: nn.Module) -> nn.Module:
    """A deep copy; parameters and buffers that lay in one memory do so in the copy.

    `copy.deepcopy` gives each parameter memory of its own, as if a target that is set by
    `target.data = online.data` had been copied.
    """
    made = copy.deepcopy(model)
    groups = [names for names, _ in in_one_memory(model)]
    if groups:
        own, theirs = _named(made), _named(model)
        for names in groups:
            known = [
                name for name in names if name in own and own[name].shape == theirs[name].shape
            ]
            _lay_together({name: theirs[name] for name in known}, own)
    return made


def in_one_memory(model: nn.Module) -> Iterator[tuple[list[str], list[Tensor]]]:
    """Names of different parameters and buffers that lie in the same memory, at least in part.

    Slices of one flat buffer that do not overlap, as of a recurrent layer on CUDA, do not.
    """
    stored: dict[tuple[str, int], list[tuple[str, Tensor]]] = defaultdict(list)
    for name, tensor in _named(model).items():
        if _is_plain(tensor):
            place = tensor.untyped_storage().data_ptr()
            stored[str(tensor.device), place].append((name, tensor))
    for group in stored.values():
        found = _meeting(group) if len(group) > 1 else {}
        if found:
            yield list(found), list(found.values())


def _meeting(group: list[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Those that overlap with another one."""
    found: dict[str, Tensor] = {}
    last, until = group[0], 0
    for each in sorted(group, key=lambda one: _span(one[1])):
        start, end = _span(each[1])
        if start < until:
            found |= dict((last, each))
        if end > until:
            last, until = each, end
    return {name: tensor for name, tensor in group if name in found}


def _named(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, each object once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _is_plain(tensor: Tensor) -> bool:
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided
    return plain and tensor.numel() > 0 and tensor.untyped_storage().data_ptr() != 0


def _span(tensor: Tensor) -> tuple[int, int]:
    last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


def _lay_together(like: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    """The copies of these tensors are views of one copy of their memory."""
    first = next(iter(like.values()), None)
    if first is None or len({tensor.dtype for tensor in like.values()}) > 1:
        return
    whole = torch.empty(0, dtype=first.dtype, device=first.device)
    whole.set_(
        first.untyped_storage().clone(),
        0,
        (first.untyped_storage().nbytes() // first.element_size(),),
    )  # type: ignore[call-overload]
    for name, tensor in like.items():
        own[name].data = whole.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
