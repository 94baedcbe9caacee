"""The autograd nodes that tensors were made by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor


def nodes_behind(*tensors: Tensor) -> Iterator[Any]:
    """Every node of the graph behind the tensors, each once; no recursion, however deep."""
    todo: list[Any] = [each.grad_fn for each in tensors]
    seen = set[Any]()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        todo += [each for each, _ in node.next_functions]


def leaves_behind(*tensors: Tensor) -> Iterator[Tensor]:
    """What a backward pass from the tensors gives gradients, each once."""
    for node in nodes_behind(*tensors):
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            yield leaf
