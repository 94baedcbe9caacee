"""Names the rows and columns of attention maps, from what the layout says of the batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from probes.batch import leaves
from probes.layout import Layout, Mask
from probes.subject import Batch

if TYPE_CHECKING:
    from probes.attention import AttentionMap

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Picture:
    """The attention of one row of a batch at one site, with its names.

    weights: (head, query, key) float32. row: which of the sample's rows, such as its turns; None
    where there is one. queries, keys: what the entries are called, None where they have no names.
    query_padding, key_padding: true where the layout's masks, or the guessed ones, say padding.
    hidden: (key,) true where the model masked the key for every query.
    masked_rows: (query,) true where the model masked every key.
    """

    site: str
    layer: int
    call: int
    dtype: str
    sample: int | None
    sample_name: str | None
    row: str | None
    weights: npt.NDArray[np.float32]
    query_axis: str
    key_axis: str
    queries: list[str] | None
    keys: list[str] | None
    query_padding: list[bool] | None
    key_padding: list[bool] | None
    hidden: list[bool]
    masked_rows: list[bool]


@dataclass(frozen=True, slots=True)
class Column:
    """A batch key's entries: (row, ..., entry), the axes before the last one, its own, and names.

    kept: true where an entry is no padding, None where no mask hides the key.
    """

    axes: tuple[str, ...]
    names: Array | None
    kept: Array | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the entries, the sample axis left out."""
        known = self.names if self.names is not None else self.kept
        assert known is not None
        return known.shape

    def fits(self, rows: int, length: int) -> bool:
        """Whether the last axis is so long, and there is one line for each row, or one for all."""
        return self.shape[-1:] == (length,) and math.prod(self.shape[:-1]) in (1, rows)

    def line(self, row: int, length: int) -> tuple[list[str] | None, list[bool] | None]:
        """Names and padding of this row."""
        names = padding = None
        if self.names is not None:
            lines = self.names.reshape(-1, length)  # (row, entry)
            names = [str(name) for name in lines[row % len(lines)]]
        if self.kept is not None:
            lines = self.kept.reshape(-1, length)  # (row, entry)
            padding = [not kept for kept in lines[row % len(lines)].tolist()]
        return names, padding


class Names:
    """What is known of a batch's entries.

    layout: complete, guesses included. alone: whether the batch holds one sample, whose axis then
    tells nothing.
    """

    def __init__(self, batch: Batch, layout: Layout, alone: bool) -> None:
        self.layout = layout
        self.alone = alone
        self.leaves = leaves(batch)
        keys = [*self.layout.names, *(key for mask in self.layout.masks for key in mask.hides)]
        found = (self.column(key) for key in dict.fromkeys(keys))
        self.columns = [column for column in found if column is not None]

    def column(self, key: str) -> Column | None:
        """What is known of the key's entries; None where they have neither names nor a mask."""
        leaf = self.leaves.get(key)
        names = self.layout.names.get(key)
        if not isinstance(leaf, Tensor):
            if names is None or callable(names):
                return None
            return Column((key,), np.array([str(name) for name in names], dtype=object), None)
        entries = leaf[..., 0] if leaf.is_floating_point() and leaf.ndim > 1 else leaf
        hiding = [mask for mask in self.layout.masks if key in mask.hides]
        kept = [mask for mask in (self._kept(each, entries) for each in hiding) if mask is not None]
        both = np.logical_and.reduce(kept) if kept else None
        called = None if names is None or leaf.is_floating_point() else _called(leaf, names)
        if called is None and both is None:
            return None
        return self._without_sample(self.layout.axes.get(key, ()), called, both)

    def _without_sample(
        self, axes: tuple[str, ...], names: Array | None, kept: Array | None
    ) -> Column:
        rank = (names if names is not None else kept).ndim  # type: ignore[union-attr]
        own = axes[:rank] if len(axes) >= rank else ("",) * rank
        place = own.index("sample") if "sample" in own else 0
        if not self.alone or rank < 2:
            return Column(own, names, kept)
        drop = [None if each is None else each.take(0, axis=place) for each in (names, kept)]
        return Column(own[:place] + own[place + 1 :], drop[0], drop[1])

    def _kept(self, mask: Mask, hidden: Tensor) -> Array | None:
        """True where the mask lets an entry of the hidden key count; None where it does not fit."""
        leaf = hidden if mask.means == "id" else self.leaves.get(mask.key)
        if not isinstance(leaf, Tensor):
            return None
        values: Array = leaf.detach().cpu().numpy()
        if mask.means == "length":
            axis = mask.axis if isinstance(mask.axis, int) else values.ndim
            if values.ndim != axis or hidden.ndim <= axis:
                return None
            visible: Array = np.arange(hidden.shape[axis]) < values[..., None]
        else:
            visible = values == 0 if mask.means == "hide" else values != 0
        if visible.shape != hidden.shape[: visible.ndim]:
            return None
        inner = (1,) * (hidden.ndim - visible.ndim)
        whole = visible.reshape(*visible.shape, *inner)  # a mask of turns hides all of a turn
        return np.broadcast_to(whole, tuple(hidden.shape))

    def pictures(
        self, map_: AttentionMap, sample: int | None, sample_name: str | None
    ) -> Iterator[Picture]:
        """One picture for each of the map's rows; a decoder's steps are split into its turns."""
        rows, heads, queries, keys = map_.weights.shape
        weights: Array = map_.weights.detach().float().cpu().numpy()
        masked: Array = map_.masked_rows.cpu().numpy()
        wanted = self.layout.axes.get(map_.site, ())
        asked = self._find(rows, queries, wanted[-2:-1])
        if asked is None and rows == 1:
            asked = next((each for each in self.columns if math.prod(each.shape) == queries), None)
        split = 1
        if asked is not None and rows == 1 and asked.shape[-1] != queries:
            split = queries // asked.shape[-1]
            queries = asked.shape[-1]
            # (1, head, turn * step, key) -> (turn, head, step, key)
            weights = weights.reshape(heads, split, queries, keys).swapaxes(0, 1)
            masked = masked.reshape(split, queries)  # (1, turn * step) -> (turn, step)
        read = self._find(rows, keys, wanted[-1:])
        for row in range(len(weights)):
            q_names, q_padding = (None, None) if asked is None else asked.line(row, queries)
            k_names, k_padding = (None, None) if read is None else read.line(row, keys)
            if any(padding is not None and all(padding) for padding in (q_padding, k_padding)):
                continue  # a turn that is not there
            yield Picture(
                site=map_.site,
                layer=map_.layer,
                call=map_.call,
                dtype=str(map_.dtype).removeprefix("torch."),
                sample=sample if sample is not None else row,
                sample_name=sample_name,
                row=_row(asked, read, row) if sample is not None and len(weights) > 1 else None,
                weights=weights[row],
                query_axis=_axis(asked, wanted[-2:-1]) or "query",
                key_axis=_axis(read, wanted[-1:]) or "key",
                queries=q_names,
                keys=k_names,
                query_padding=q_padding,
                key_padding=k_padding,
                hidden=map_.masked_keys[row // split].tolist(),
                masked_rows=masked[row].tolist(),
            )

    def _find(self, rows: int, length: int, wanted: tuple[str, ...]) -> Column | None:
        """The first column that fits, those of the wanted axis first, those with names first."""
        fitting = [column for column in self.columns if column.fits(rows, length)]
        if wanted and wanted[0]:
            fitting.sort(key=lambda column: column.axes[-1:] != wanted)
        fitting.sort(key=lambda column: column.names is None)
        return fitting[0] if fitting else None


def _called(leaf: Tensor, names: Any) -> Array:
    """The leaf's entries by their names: an array of strings in the leaf's shape."""
    ids: Array = leaf.detach().cpu().numpy()
    called = [_one(names, each) for each in ids.reshape(-1).tolist()]  # (entry,)
    return np.array(called, dtype=object).reshape(ids.shape)


def _one(names: Any, entry: int) -> str:
    if callable(names):
        return str(names(entry))
    return str(names[entry]) if 0 <= entry < len(names) else f"#{entry}"


def _axis(column: Column | None, wanted: tuple[str, ...]) -> str | None:
    if wanted and wanted[0]:
        return wanted[0]
    return column.axes[-1] or None if column is not None and column.axes else None


def _row(asked: Column | None, read: Column | None, row: int) -> str:
    """How one of a sample's rows is called: by the axes before the entries' own."""
    for column in (asked, read):
        if column is not None and len(column.shape) > 1 and math.prod(column.shape[:-1]) > row:
            places = np.unravel_index(row, column.shape[:-1])
            words = zip(column.axes, places, strict=False)
            return ", ".join(f"{axis or 'row'} {place}" for axis, place in words)
    return f"row {row}"
