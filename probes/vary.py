"""Other values for a tensor of a batch, such as the tensor itself might hold."""

from __future__ import annotations

import torch
from torch import Tensor


def vary(tensor: Tensor, where: Tensor, pool: Tensor | None = None) -> Tensor | None:
    """The tensor with other values where `where` is true; None where it knows no other value.

    where: boolean, over the tensor's first axes. pool: the values to draw from, else the
    tensor's own. What is drawn occurs there already, so that no id falls out of range.
    """
    if tensor.dtype is torch.bool:
        varied = vary(tensor.long(), where, None if pool is None else pool.long())
        return None if varied is None else varied.bool()
    where = where.to(tensor.device)
    wide = where.reshape([*where.shape, *[1] * (tensor.ndim - where.ndim)]).expand(tensor.shape)
    known = torch.unique((tensor if pool is None else pool).flatten())
    if known.numel() == 0 or not bool(wide.any()):
        return None
    if tensor.is_floating_point():
        return _other_number(tensor, wide)
    if known.numel() == 1 and bool((tensor[wide] == known).all()):
        return None
    places = torch.searchsorted(known, tensor[wide].contiguous()).clamp(max=len(known) - 1)
    # by a step that differs from place to place, and is never a whole turn
    steps = torch.arange(len(places), device=tensor.device) % max(1, len(known) - 1) + 1
    drawn = known[(places + steps) % len(known)]
    out = tensor.clone()
    out[wide] = drawn
    return out


def vary_later(tensor: Tensor, where: Tensor) -> Tensor | None:
    """As `vary`, with ids out of those that stand after the first place of their row.

    What every row begins with, and nothing else holds, may be no class that can be asked for.
    """
    later = tensor[:, 1:] if tensor.ndim > 1 and not tensor.is_floating_point() else tensor
    return vary(tensor, where, later if len(torch.unique(later)) > 1 else None)


def _other_number(tensor: Tensor, wide: Tensor) -> Tensor:
    """Each number moved by half of the spread, up or down, or by one and a half."""
    finite = tensor[torch.isfinite(tensor)]
    spread = float(finite.std(unbiased=False)) if finite.numel() else 0.0
    size = spread or float(finite.abs().max() if finite.numel() else 0.0) or 1.0
    signs = torch.arange(tensor.numel(), device=tensor.device).view_as(tensor) % 3 - 1
    moved = tensor + (signs + 0.5).to(tensor.dtype) * size
    return torch.where(wide, moved, tensor)
