"""Sees where code picks by index or changes shapes, with the line that does it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from probes.raised import source_here
from probes.scoring.alignments import Aligned, aligned
from probes.scoring.calls import OF_CLASSES, Call, call_of

GATHERS = {
    "gather": "aten.gather",
    "take_along_dim": "aten.gather",
    "index_select": "aten.index_select",
}
EMBEDDINGS: Mapping[Any, tuple[str, str]] = {
    F.embedding: ("input", "weight"),
    torch.embedding: ("weight", "indices"),
}
TILES = ("repeat", "tile")
POOLS = {"matmul", "__matmul__", "bmm", "einsum", "sum", "mean", "amax", "sub", "__sub__"}
PARTS = ("chunk", "split", "tensor_split")
JOINS = ("cat", "concat", "concatenate")
WRITES = ("scatter", "scatter_")
VIEWS = ("view", "reshape", "_unsafe_view", "view_as", "reshape_as", "unflatten")


@dataclass(frozen=True, slots=True, eq=False)
class Pick:
    """Something taken by index along one axis.

    op: `aten.gather`, `aten.index_select`, `aten.index` or `aten.select`. source: what was picked
    from. index: integers along `axis`; for `gather`, of the picked shape. rows: the indices of the
    axes before, where they were given as well. out: what was picked. line: of the user's code.
    """

    op: str
    order: int
    source: Tensor
    axis: int
    index: Tensor
    rows: tuple[Tensor, ...]
    out: Tensor
    line: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Reshaped:
    """A tensor that was given another shape without moving its numbers, or the first part of it."""

    op: str
    order: int
    before: tuple[int, ...]
    out: Tensor
    line: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Summed:
    """Whole numbers that were summed up one after the other, such as lengths to where they end."""

    order: int
    of: Tensor
    line: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Pooled:
    """What a product, a sum or a difference gave, none of which a module need have been shown."""

    order: int
    out: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Laid:
    """Tensors that were laid behind each other along the second axis, such as tokens."""

    order: int
    parts: tuple[Tensor, ...]
    out: Tensor
    line: str | None


class Indexing(TorchFunctionMode):
    """While it is entered, picks from floating numbers, changes of shape and losses are noted.

    looked_up: what embeddings give, whether of a module or of `F.embedding` alone. named: picks
    from whole numbers, and places that are written to.
    """

    def __init__(self, clock: Iterator[int]) -> None:
        super().__init__()
        self.picks: list[Pick] = []
        self.looked_up: list[Pick] = []
        self.views: list[Reshaped] = []
        self.classed: list[Call] = []
        self.aligned: list[Aligned] = []
        self.tiled: list[tuple[int, int]] = []
        self.summed: list[Summed] = []
        self.pooled: list[Pooled] = []
        self.parted: list[Reshaped] = []
        self.laid: list[Laid] = []
        self.named: list[Pick] = []
        self.rolled = self.sampled = 0
        self._clock = clock

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function has run as it would have, and was looked at."""
        given = kwargs or {}
        out = func(*args, **given)
        name = getattr(func, "__name__", "")
        if not isinstance(out, Tensor):
            if name in PARTS and args and isinstance(args[0], Tensor) and out:
                before = tuple(args[0].shape)
                cut = Reshaped(name, next(self._clock), before, out[0], source_here())
                self.parted.append(cut)
            elif name == "__setitem__" and isinstance(args[0], Tensor):
                self._pick("__getitem__", args, given, args[0], self.named)
            return out
        if name in JOINS:
            self._lay(args, given, out)
        if func in EMBEDDINGS:
            self._look_up(EMBEDDINGS[func], args, given, out)
        elif not args:
            return out
        elif name in WRITES:
            self._pick("gather", args, given, out, self.named)
        elif name in VIEWS and isinstance(args[0], Tensor):
            before = tuple(args[0].shape)
            if before != tuple(out.shape) and out.ndim > 1:
                self.views.append(Reshaped(name, next(self._clock), before, out, source_here()))
        elif not out.is_floating_point():
            if name == "cumsum" and isinstance(args[0], Tensor):
                self.summed.append(Summed(next(self._clock), args[0].detach(), source_here()))
            elif name in GATHERS or name == "__getitem__":
                self._pick(name, args, given, out, self.named)
            return out
        elif name in ("roll", "grid_sample"):
            self.rolled += name == "roll"
            self.sampled += name == "grid_sample"
        elif name in POOLS:
            if out.requires_grad and out.ndim > 1:
                self.pooled.append(Pooled(next(self._clock), out))
        elif name in TILES and args[0].ndim == out.ndim > 0:
            self.tiled.append((len(args[0]), len(out)))
        elif name in GATHERS or name == "__getitem__":
            self._pick(name, args, given, out, self.picks)
        elif name == "ctc_loss":
            ctc = aligned(args, given, source_here())
            self.aligned += [] if ctc is None else [ctc]
        elif func in OF_CLASSES:
            call = call_of(func, args, given, out)
            self.classed += [] if call is None or call.kind != "class" else [call]
        return out

    def _look_up(
        self, words: Sequence[str], args: Sequence[Any], given: Mapping[str, Any], out: Tensor
    ) -> None:
        named = {**dict(zip(words, args, strict=False)), **given}
        source, index = named.get("weight"), named.get(words[words[0] == "weight"])
        if isinstance(source, Tensor) and isinstance(index, Tensor):
            order, line = next(self._clock), source_here()
            self.looked_up.append(
                Pick("aten.embedding", order, source, 0, index.detach(), (), out, line)
            )

    def _lay(self, args: Sequence[Any], given: Mapping[str, Any], out: Tensor) -> None:
        parts = args[0] if args else given.get("tensors", ())
        axis = args[1] if len(args) > 1 else given.get("dim", given.get("axis", 0))
        if isinstance(axis, int) and out.ndim > 1 and axis % out.ndim == 1 and len(parts) > 1:
            self.laid.append(Laid(next(self._clock), tuple(parts), out, source_here()))

    def _pick(
        self,
        name: str,
        args: Sequence[Any],
        given: Mapping[str, Any],
        out: Tensor,
        into: list[Pick],
    ) -> None:
        source = args[0]
        if not isinstance(source, Tensor):
            return
        found = picked(name, args, given)
        if found is not None:
            axis, index, rows = found
            order, line = next(self._clock), source_here()
            op = GATHERS.get(name, "aten.index" if index.ndim else "aten.select")
            into.append(Pick(op, order, source, axis, index, rows, out, line))


Found = tuple[int, Tensor, tuple[Tensor, ...]]
"""An axis, the integers along it, and those along the axes before where they were given as well."""


def picked(name: str, args: Sequence[Any], given: Mapping[str, Any]) -> Found | None:
    """What such a function takes by index, or a subscript of its first argument."""
    if name == "__getitem__":
        return _subscripts(args[1], args[0])
    return _named(name, args, given)


def _named(name: str, args: Sequence[Any], given: Mapping[str, Any]) -> Found | None:
    rest = list(args[1:])
    words = ("indices", "dim") if name == "take_along_dim" else ("dim", "index")
    values = {word: given.get(word) for word in words}
    for word in words:
        if values[word] is None and rest:
            values[word] = rest.pop(0)
    axis, index = values["dim"], values[words[0] if words[0] != "dim" else "index"]
    if not isinstance(axis, int) or not isinstance(index, Tensor):
        return None
    return axis % max(1, args[0].ndim), index.detach(), ()


def _subscripts(index: Any, source: Tensor) -> Found | None:
    """Of integers and whole slices the last integers: `x[rows, at]`, `x[:, at]`, `x[:, -1]`."""
    parts = list(index) if isinstance(index, tuple) else [index]
    if any(part is None or part is Ellipsis or _is_boolean(part) for part in parts):
        return None
    picked = [i for i, part in enumerate(parts) if isinstance(part, (int, Tensor, list))]
    whole = all(part == slice(None) for part in parts if isinstance(part, slice))
    if not picked or not whole or len(parts) > source.ndim:
        return None
    axis = picked[-1]
    numbers = [torch.as_tensor(parts[i]).detach() for i in picked]
    last = numbers[-1]
    if last.is_floating_point():
        return None
    last = torch.where(last < 0, last + source.shape[axis], last)
    before = tuple(numbers[:-1]) if picked == list(range(axis + 1)) else ()
    return axis, last, before


def _is_boolean(part: Any) -> bool:
    return isinstance(part, bool) or (isinstance(part, Tensor) and part.dtype is torch.bool)


def reordering(picks: Iterable[Pick], size: int) -> Pick | None:
    """The last pick of all of so many samples in another order that none puts back; or None.

    Of rows that are sorted and then taken by that order once more it is the second.
    """
    left = list[tuple[Pick, list[int]]]()
    for pick in picks:
        order = pick.index.flatten().tolist()
        samples = pick.axis == 0 and not pick.rows and len(order) == size
        if not samples or not sorted(order) == list(range(size)) != order:
            continue
        if left and [left[-1][1][i] for i in order] == list(range(size)):
            left.pop()
        else:
            left.append((pick, order))
    return left[-1][0] if left else None
