"""What the masks of a layout hide, as booleans that line up with keys, outputs and sites."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from probes.layout import Layout, Mask

OTHER = re.compile(r"(loss|label|target|mlm|prompt|response|action|answer)")  # no padding masks


@dataclass(frozen=True)
class Hidden:
    """What one mask hides of one key.

    keep: true where visible; its axes are the first of the key's. axes: their names, where the
    layout has them. guessed: the line that would declare the mask; None where it is declared.
    """

    mask: Mask
    key: str
    keep: Tensor
    axes: tuple[str, ...] | None
    guessed: str | None

    def over(self, shape: tuple[int, ...], axes: tuple[str, ...] | None = None) -> Tensor | None:
        """True where a value of this shape is visible, broadcastable to it; None if unknown.

        A value without the masked axis, such as a pooled one, is visible as a whole.
        """
        if axes is not None and self.axes is not None and len(axes) == len(shape):
            if axes[: len(self.axes)] != self.axes:
                return None if self.axes[-1] in axes else self._all()
            own = tuple(self.keep.shape)
            return self._widened(self.keep, len(shape)) if shape[: len(own)] == own else None
        return self._by_shape(shape)

    def behind_channels(self, shape: tuple[int, ...]) -> Tensor | None:
        """The same of a value (sample, channel, place, ...), whose places no other axis is like."""
        own = tuple(self.keep.shape)
        if len(own) != 2 or shape[:1] + shape[2:3] != own or shape.count(own[1]) != 1:
            return None
        return self._widened(self.keep[:, None], len(shape))

    def _by_shape(self, shape: tuple[int, ...]) -> Tensor | None:
        own = tuple(self.keep.shape)
        for k in range(1, len(own) + 1):  # (n, t, ...), or with its first axes flattened
            flat = (prod(own[:k]), *own[k:])
            if shape[: len(flat)] == flat:
                return self._widened(self.keep.reshape(flat), len(shape))
        if len(own) == 2 and shape[:2] == own[::-1]:  # (t, n, ...)
            return self._widened(self.keep.T, len(shape))
        if shape[: len(own)] == (*own[:-1], own[-1] - 1):  # one end was cut off, which one is open
            return self._widened(self.keep[..., 1:] & self.keep[..., :-1], len(shape))
        return self._all() if self._is_pooled(shape) else None

    def _is_pooled(self, shape: tuple[int, ...]) -> bool:
        """Whether a value has the mask's axes but for the last, be the first ones flattened.

        An axis of a whole number of times the last one's length may hold it, and is not known;
        nor is what stands between flattened axes and features.
        """
        own = tuple(self.keep.shape)
        for k in range(1, len(own)):
            flat = (prod(own[:k]), *own[k:-1])
            rest = shape[len(flat) :]
            free = own[-1] not in rest and all(n % own[-1] for n in rest[:-1])
            free = free and (k == 1 or len(rest) < 2)
            if shape[: len(flat)] == flat and free:
                return True
        return not shape

    def _all(self) -> Tensor:
        return torch.ones((), dtype=torch.bool, device=self.keep.device)

    def _widened(self, keep: Tensor, ndim: int) -> Tensor:
        return keep.reshape([*keep.shape, *[1] * (ndim - keep.ndim)])


def hidden(layout: Layout, declared: Layout, tensors: Mapping[str, Tensor]) -> Iterator[Hidden]:
    """What every mask hides of every key; guessed masks only where they look like padding."""
    known = {mask.key for mask in declared.masks}
    for mask in layout.masks:
        for key in mask.hides:
            if mask.key not in tensors or key not in tensors:
                continue
            keep = _keep(mask, tensors[mask.key], tensors[key])
            if keep is None or tuple(tensors[key].shape[: keep.ndim]) != tuple(keep.shape):
                continue
            guessed = None if mask.key in known else f"masks=({mask!r},)"
            if guessed is None or _is_padding(mask, keep, tensors[key]):
                axes = layout.axes.get(key, ())[: keep.ndim]
                yield Hidden(mask, key, keep, axes if len(axes) == keep.ndim else None, guessed)


def _keep(mask: Mask, values: Tensor, of: Tensor) -> Tensor | None:
    if mask.means == "length":
        if values.ndim != 1 or of.ndim < 2:
            return None
        places = torch.arange(of.shape[1], device=of.device)
        lengths = values.to(of.device)[:, None]
        return places < lengths if mask.side == "right" else places >= of.shape[1] - lengths
    if mask.means == "id":
        return of != 0
    return (values != 0) == (mask.means == "keep")


def _is_padding(mask: Mask, keep: Tensor, of: Tensor) -> bool:
    """Whether it hides one end of each row, and there, of ids, one and the same id."""
    if OTHER.search(mask.key.rpartition(".")[2]) or keep.ndim != 2:
        return False
    turns = (keep[:, 1:] != keep[:, :-1]).sum(1)
    if bool((turns > 1).any()):
        return False
    ids = of[~keep] if not of.is_floating_point() else of.new_zeros(1)
    return ids.numel() == 0 or bool((ids == ids.flatten()[0]).all())
