"""What a result hangs on only through a factor that the code writes as the number 0.

Only numbers of Python's are read, which lie on the host: no tensor is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

MOST = 100_000  # nodes of a graph that are walked
NUMBERS = (torch.bool, torch.int64, torch.float64)  # what a number of Python's is saved as
SUMS = ("AddBackward0", "SubBackward0")


def parted(roots: Sequence[Tensor]) -> tuple[set[Any], set[Any]]:
    """The nodes of the graph behind these, and those of it that are times 0 wherever they enter.

    None at all of a graph that is too large.
    """
    seen, behind = set[Any](), list[Any]()
    with _disable_current_modes():  # which are other people's, or see no numbers
        for node in _walked([each.grad_fn for each in roots if each.grad_fn is not None], seen):
            behind += _edges(node, zero=True)
        live = set(seen)
        zeroed = set(_walked(behind, seen, through=True))
    return (live, zeroed) if len(seen) < MOST else (set(), set())


def _walked(waiting: list[Any], seen: set[Any], *, through: bool = False) -> Iterator[Any]:
    """Each node once that is not seen yet. through: past factors of 0 too."""
    while waiting and len(seen) < MOST:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            yield node
            waiting += _edges(node, zero=False)
            if through:
                waiting += _edges(node, zero=True)


def _edges(node: Any, *, zero: bool) -> list[Any]:
    """The nodes behind this one: those whose part in it is times 0, or the others."""
    taken = _taken_times_zero(node)
    return [
        each
        for place, (each, _) in enumerate(node.next_functions)
        if each is not None and (place == taken) is zero
    ]


def _taken_times_zero(node: Any) -> int | None:
    """Which of the node's operands it takes times the number 0."""
    name = node.name()
    if name in SUMS:
        return 1 if getattr(node, "_saved_alpha", 1) == 0 else None
    return 0 if name == "MulBackward0" and _is_zero(node) else None


def _is_zero(product: Any) -> bool:
    """Whether its second factor is Python's number 0; what a hook keeps is not asked for."""
    kept = getattr(product, "_raw_saved_other", None)
    if getattr(kept, "unpack_hook", True) is not None:
        return False
    try:
        factor = product._saved_other
    except RuntimeError:  # it was written to since
        return False
    return isinstance(factor, Tensor) and _is_number(factor) and not factor.item()


def _is_number(factor: Tensor) -> bool:
    """Whether it stands for a number of Python's: such a one gives way to any tensor's dtype."""
    if factor.dim() or factor.device.type != "cpu" or factor.dtype not in NUMBERS:
        return False
    kind = torch.float32 if factor.is_floating_point() else torch.int8
    return torch.result_type(factor, torch.zeros((), dtype=kind, device="cpu")) is kind
