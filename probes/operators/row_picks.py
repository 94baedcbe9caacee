"""Rows that are picked by number, by whatever function: which come to stand where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

PICKS = {"__getitem__", "index_select", "gather", "take_along_dim"}


@dataclass(frozen=True, slots=True)
class Picked:
    """rows: (row,) from which row each was taken, of `count` rows."""

    rows: Tensor
    count: int

    @property
    def is_whole(self) -> bool:
        """Whether as many were picked as there are."""
        return len(self.rows) == self.count > 1

    def after(self, first: Picked | None) -> Picked:
        """Both picks at once, where the first took more or fewer, and now there are as many."""
        if first is not None and len(first.rows) == self.count and len(self.rows) == first.count:
            return Picked(first.rows[self.rows], first.count)
        return self

    @property
    def moved(self) -> int:
        """How many rows were taken from another."""
        return int((self.rows != torch.arange(len(self.rows), device=self.rows.device)).sum())

    def apart(self, value: Tensor) -> float:
        """How far a tensor's rows are from those that were picked, over its size; 0 without rows.

        Where several of its axes are as long as there are rows, the least of them.
        """
        size = float(value.detach().abs().max()) if value.numel() else 0.0
        found = [
            float((each.index_select(axis, self.rows) - each).abs().max())
            for each, axis in _by_row(value.detach(), len(self.rows))
        ]
        return min(found) / size if found and size > 0 else 0.0


def _by_row(value: Tensor, count: int) -> Iterator[tuple[Tensor, int]]:
    for axis, long in enumerate(value.shape):
        if long == count:
            yield value, axis
        elif axis + 1 < value.ndim and long * value.shape[axis + 1] == count and long > 1:
            yield value.flatten(axis, axis + 1), axis


def is_whole(tensor: Tensor) -> bool:
    """Whether it holds whole numbers; truth values are none."""
    numbers = not tensor.is_floating_point() and not tensor.is_complex()
    return numbers and tensor.dtype is not torch.bool


def picked(
    name: str, source: Tensor, args: Sequence[Any], given: Mapping[str, Any]
) -> Picked | None:
    """The rows that a call picked; None where it picked other things."""
    if name == "__getitem__":
        found = _by_key(source, args[1])
    else:
        words = [value for word, value in given.items() if word not in ("input", "out")]
        found = _by_axis(name, source, [*args[1:], *words])
    return None if found is None else Picked(found[0].flatten(), found[1])


def _by_key(source: Tensor, key: Any) -> tuple[Tensor, int] | None:
    parts = list(key) if isinstance(key, tuple) else [key]
    ahead = len(list(takewhile(lambda each: each == slice(None), _told(parts))))
    index = list(takewhile(lambda each: isinstance(each, Tensor), parts[ahead:]))
    rest = parts[ahead + len(index) :]
    if not index or any(isinstance(each, (Tensor, int)) for each in rest):
        return None
    if not all(is_whole(each) for each in index):
        return None
    shape = source.shape[ahead : ahead + len(index)]
    rows = _numbers(shape, source)[tuple(each.to(source.device) for each in index)]
    return rows, shape.numel()


def _told(parts: Sequence[Any]) -> Iterator[Any]:
    """The parts, with none that a comparison would take for numbers."""
    yield from (each if isinstance(each, slice) else None for each in parts)


def _by_axis(name: str, source: Tensor, told: Sequence[Any]) -> tuple[Tensor, int] | None:
    index = next((each for each in told if isinstance(each, Tensor) and is_whole(each)), None)
    axis = next((each for each in told if isinstance(each, int)), None)
    if index is None or axis is None:
        return None
    axis %= source.ndim
    if name == "index_select":
        return index, source.shape[axis]
    if index.ndim != source.ndim or axis + 1 == source.ndim or not index.numel():
        return None  # single places are picked, and no rows
    lines = index.flatten(axis + 1)
    shape = source.shape[: axis + 1]
    first = lines[..., 0]
    if bool((lines != first[..., None]).any()):
        return None
    try:
        first = first.expand(*shape[:-1], first.shape[-1])  # as `take_along_dim` does
    except RuntimeError:
        return None
    return _numbers(shape, source).gather(axis, first % shape[-1]), shape.numel()


def _numbers(shape: torch.Size, like: Tensor) -> Tensor:
    return torch.arange(shape.numel(), device=like.device).view(shape)
