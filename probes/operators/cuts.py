"""Numbers that are cut to whole ones and looked up by: from which numbers, and which rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from probes.nested import tensors_in
from probes.raised import source_here
from probes.running import names_of, running

ROUND = {"floor", "round", "trunc", "ceil", "fix", "floor_divide", "floordiv"}
BINS = {"bucketize": 0, "searchsorted": 1}
LOOKUPS: Mapping[Callable[..., Any], tuple[int, int]] = {  # places of the table, and of the indices
    F.embedding: (1, 0),
    torch.embedding: (0, 1),
    torch.gather: (0, 2),
    Tensor.gather: (0, 2),
    torch.index_select: (0, 2),
    Tensor.index_select: (0, 2),
    Tensor.__getitem__: (0, 1),
}


@dataclass(frozen=True, slots=True, eq=False)
class Looked:
    """A table that was looked up by what was cut.

    site, op: of the look-up. rows: of the table. source: the line that cuts. index, numbers: the
    indices, and what they were before.
    """

    site: str
    op: str
    rows: int
    source: str | None
    index: Tensor
    numbers: Tensor


class Cuts(TorchFunctionMode):
    """While it is entered, `looked` lists look-ups by whole numbers that were cut out of others.

    Only of numbers that hang on no parameter, as those of the batch, and those drawn.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.looked: list[Looked] = []
        self._names = names_of(model)
        self._learned = WeakTensorKeyDictionary()
        self._cut = WeakTensorKeyDictionary()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The function's result; what it was given was looked at."""
        if func in LOOKUPS and len(args) > 1:
            self._look(func, args)
        out = func(*args, **(kwargs or {}))
        given = list(tensors_in((*args, *(kwargs or {}).values())))
        for each in tensors_in((out,)):
            self._follow(func, args, given, each)
        return out

    def _follow(self, func: Any, args: Sequence[Any], given: list[Tensor], out: Tensor) -> None:
        if out.requires_grad or any(
            isinstance(e, nn.Parameter) or e in self._learned for e in given
        ):
            self._learned[out] = True
            return
        name = getattr(func, "__name__", "").strip("_")
        before = next((self._cut[each] for each in given if each in self._cut), None)
        if before is not None:
            if out.dtype is not torch.bool:
                self._cut[out] = before
            return
        at = BINS.get(name, 0)
        first = args[at] if len(args) > at else None
        if not isinstance(first, Tensor) or not first.is_floating_point():
            return
        whole = not out.is_floating_point() and out.dtype is not torch.bool
        if name in ROUND or name in BINS or (whole and out.shape == first.shape):
            self._cut[out] = first.detach(), source_here()

    def _look(self, func: Any, args: Sequence[Any]) -> None:
        table, index = (args[place] if len(args) > place else None for place in LOOKUPS[func])
        parts = index if isinstance(index, tuple) else (index,)
        for axis, part in enumerate(parts):
            if isinstance(part, Tensor) and part in self._cut and isinstance(table, Tensor):
                numbers, source = self._cut[part]
                along = args[1] if len(args) > 2 and isinstance(args[1], int) else axis
                rows = table.shape[0] if func in _TABLES else table.shape[along]
                name = getattr(func, "__name__", "").strip("_")
                index = part.detach().clone()
                where = running(self._names) or "<loss>", name, rows
                self.looked.append(Looked(*where, source, index, numbers))


_TABLES = (F.embedding, torch.embedding)


def always_one(looked: Sequence[Looked]) -> Iterator[tuple[Looked, ...]]:
    """The look-ups of each place and line, if all read one and the same row of several."""
    found: dict[tuple[str, str, str | None], list[Looked]] = {}
    for each in looked:
        found.setdefault((each.site, each.op, each.source), []).append(each)
    for every in found.values():
        rows = torch.cat([each.index.flatten().unique() for each in every])
        numbers = torch.cat([each.numbers.flatten() for each in every])
        several = min(each.rows for each in every) > 1 and len(numbers) > 1
        if several and len(rows.unique()) == 1 and bool((numbers != numbers[0]).any()):
            yield tuple(every)
