"""Which event wrote what a tensor holds: by storage, so that views and in-place writes agree."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef


@dataclass(slots=True)
class _Written:
    """A piece of a storage, in bytes, and the event that left something not finite in it."""

    event: int
    start: int
    end: int


@dataclass(slots=True)
class _Cell:
    """What is known of one storage. The reference keeps its address from being used again."""

    reference: StorageWeakRef
    dirty: list[_Written] = field(default_factory=list)
    empty: Any = None


class Memory:
    """The storages of a step, each with the events that left something not finite in it."""

    def __init__(self) -> None:
        self._cells: dict[int, _Cell] = {}

    def key(self, tensor: Tensor) -> int | None:
        """What two tensors that share memory share; None where the tensor has no storage."""
        values = _strided(tensor)
        return None if values is None else values.untyped_storage()._cdata

    def knows(self, tensor: Tensor) -> bool:
        """Whether an operator of this step, or what was given to it, is known to have made it."""
        return self.key(tensor) in self._cells

    def may_be_bad(self, tensor: Tensor) -> bool:
        """Whether it has to be looked at: it shares memory with what was not finite or not set."""
        cell = self._cell(tensor)
        return cell is None or bool(cell.dirty) or cell.empty is not None

    def writers(self, tensor: Tensor) -> tuple[int, ...]:
        """The events that left something not finite where the tensor lies, oldest first."""
        cell, values = self._cell(tensor), _strided(tensor)
        if cell is None or values is None:
            return ()
        start, end = _span(values)
        return tuple(each.event for each in cell.dirty if each.start < end and start < each.end)

    def emptied(self, tensor: Tensor, mark: Any) -> None:
        """The storage is fresh and was set to nothing; `mark` says where."""
        self._fresh(tensor).empty = mark

    def empty_mark(self, tensor: Tensor) -> Any:
        """The mark of a storage that was set to nothing and not wholly written since, or None."""
        cell = self._cell(tensor)
        return None if cell is None else cell.empty

    def mark(self, tensor: Tensor, mark: Any) -> None:
        """The mark of a storage that was set to nothing is another now."""
        cell = self._cell(tensor)
        if cell is not None:
            cell.empty = mark

    def wrote(self, tensor: Tensor, event: int | None, fresh: bool) -> None:
        """The event wrote the tensor; None where all that it wrote is finite."""
        values = _strided(tensor)
        if values is None:
            return
        cell = self._fresh(values) if fresh else (self._cell(values) or self._fresh(values))
        start, end = _span(values)
        whole = values.numel() * values.element_size()
        if whole == values.untyped_storage().nbytes():
            cell.dirty.clear()
            cell.empty = None
        elif whole == end - start:  # no gaps: what lay inside is gone
            cell.dirty = [e for e in cell.dirty if e.start < start or e.end > end]
        if event is not None:
            cell.dirty.append(_Written(event, start, end))

    def _cell(self, tensor: Tensor) -> _Cell | None:
        key = self.key(tensor)
        return None if key is None else self._cells.get(key)

    def _fresh(self, tensor: Tensor) -> _Cell:
        values = _strided(tensor)
        assert values is not None
        storage = values.untyped_storage()
        cell = self._cells[storage._cdata] = _Cell(StorageWeakRef(storage))
        return cell


def _strided(tensor: Tensor) -> Tensor | None:
    """The tensor whose storage holds the numbers: the values of a sparse one."""
    if tensor.layout is torch.strided and not tensor.is_nested:
        return tensor
    return tensor._values() if tensor.layout is torch.sparse_coo else None


def _span(values: Tensor) -> tuple[int, int]:
    """The first byte, and the one behind the last."""
    if not values.numel():
        return 0, 0
    steps = zip(values.shape, values.stride(), strict=True)
    length = 1 + sum((size - 1) * stride for size, stride in steps)
    start, width = int(values.storage_offset()), values.element_size()
    return start * width, (start + length) * width
