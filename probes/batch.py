"""Walks, moves and cuts batches: mappings, tuples and lists of tensors, numbers and strings."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from probes.layout import Layout
from probes.subject import Batch


def leaves(batch: Batch) -> dict[str, Any]:
    """The parts of a batch that are not containers, by path: `ids`, `inputs.ids`, `0`, `1.mask`.

    A list of numbers or strings is one leaf. A batch that is itself a tensor has the path "".
    """
    return dict(_walk(batch, ""))


def _walk(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    items = _items(node)
    if items is None:
        yield path, node
        return
    for key, child in items:
        yield from _walk(child, f"{path}.{key}" if path else str(key))


def _items(node: Any) -> list[tuple[Any, Any]] | None:
    """The children of a container by key or place; None where the node is a leaf."""
    if isinstance(node, Mapping):
        return list(node.items())
    if hasattr(node, "_fields") and not isinstance(node, PackedSequence):  # a named tuple
        return list(zip(node._fields, node, strict=True))
    if isinstance(node, (list, tuple)) and not isinstance(node, PackedSequence):
        return None if _is_column(node) else list(enumerate(node))
    return None


def _is_column(node: Sequence[Any]) -> bool:
    return len(node) > 0 and all(isinstance(each, (str, int, float, bool)) for each in node)


def map_leaves(batch: Batch, change: Callable[[str, Any], Any]) -> Batch:
    """The same containers, every leaf replaced by `change(path, leaf)`."""
    return _rebuild(batch, "", change)


def _rebuild(node: Any, path: str, change: Callable[[str, Any], Any]) -> Any:
    items = _items(node)
    if items is None:
        return change(path, node)
    children = {
        key: _rebuild(child, f"{path}.{key}" if path else str(key), change) for key, child in items
    }
    if isinstance(node, Mapping):
        return _mapping_like(node, children)
    values = list(children.values())
    if hasattr(node, "_fields"):
        return type(node)(*values)
    return tuple(values) if isinstance(node, tuple) else values


def _mapping_like(node: Mapping[Any, Any], children: dict[Any, Any]) -> Any:
    """A mapping of the node's own class, such as a tokenizer's BatchEncoding, where it can be."""
    if type(node) is dict:
        return children
    try:
        out: Any = copy.copy(node)
        for key, child in children.items():
            out[key] = child
    except TypeError:  # a mapping that takes no assignment
        return children
    return out


def to_device(batch: Batch, device: torch.device | str) -> Batch:
    """The batch with every tensor on the device."""
    target = torch.device(device)

    def move(_: str, leaf: Any) -> Any:
        if isinstance(leaf, PackedSequence):
            return leaf.to(target)  # type: ignore[arg-type]  # its stub knows dtypes only
        return leaf.to(target) if isinstance(leaf, Tensor) else leaf

    return map_leaves(batch, move)


def sample_axes(batch: Batch, layout: Layout | None = None) -> dict[str, int]:
    """The sample axis of every leaf that has one; empty where it cannot be told.

    An axis declared as `sample` counts first. Without one, the first axis is taken where all
    tensors of more than one entry agree on its length. Lists of that length are cut as well.
    """
    found = leaves(batch)
    declared = _declared(found, layout)
    sizes = {found[path].shape[axis] for path, axis in declared.items()}
    if not declared:
        sizes = {len(leaf) for leaf in found.values() if _has_rows(leaf)}
    if len(sizes) != 1 or any(isinstance(leaf, PackedSequence) for leaf in found.values()):
        return {}
    size = sizes.pop()
    first = {path: 0 for path, leaf in found.items() if _length(leaf) == size}
    return first | declared


def _declared(found: Mapping[str, Any], layout: Layout | None) -> dict[str, int]:
    axes = layout.axes if layout else {}
    return {
        path: axes[path].index("sample")
        for path, leaf in found.items()
        if isinstance(leaf, Tensor) and "sample" in axes.get(path, ())
    }


def _has_rows(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) != 1


def _length(leaf: Any) -> int | None:
    if isinstance(leaf, Tensor):
        return len(leaf) if leaf.ndim else None
    return len(leaf) if isinstance(leaf, (list, tuple)) else None


def sample_count(batch: Batch, layout: Layout | None = None) -> int | None:
    """How many samples the batch holds; None where it cannot be cut into samples."""
    found = leaves(batch)
    for path, axis in sample_axes(batch, layout).items():
        leaf = found[path]
        return int(leaf.shape[axis]) if isinstance(leaf, Tensor) else len(leaf)
    return None


def take(batch: Batch, indices: Sequence[int], layout: Layout | None = None) -> Batch:
    """The batch of these samples only, in this order; what has no sample axis is kept whole."""
    axes = sample_axes(batch, layout)

    def cut(path: str, leaf: Any) -> Any:
        if path not in axes:
            return leaf
        if isinstance(leaf, Tensor):
            return leaf.index_select(axes[path], torch.tensor(indices, device=leaf.device))
        return type(leaf)(leaf[index] for index in indices)

    return map_leaves(batch, cut)


class Moved:
    """Batches that are moved to a device as they are read; read again, they start afresh."""

    def __init__(self, batches: Iterable[Batch], device: str) -> None:
        self.batches = batches
        self.device = device

    def __iter__(self) -> Iterator[Batch]:
        """The batches, one after the other, on the device."""
        for batch in self.batches:
            yield to_device(batch, self.device)
