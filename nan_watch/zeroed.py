"""Parameters that reach the loss only through a factor that the code writes as the number 0."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

STEPS = (0, 4)  # that are looked at: the first, and one after the start of most warm-ups
PASSES = 4  # of each such step
MOST = 100_000  # nodes of a graph that are walked
NUMBERS = (torch.bool, torch.int64, torch.float64)  # what a number of Python's is saved as
LEAF = "torch::autograd::AccumulateGrad"
SUMS = ("AddBackward0", "SubBackward0")


class Zeroed:
    """Walks the graphs of a few steps, before their backward passes.

    Only numbers of Python's are read, which lie on the host: no tensor is.
    """

    def __init__(self) -> None:
        self._steps = self._passes = 0
        self._zeroed: set[int] = set()
        self._live: set[int] = set()

    def look(self, roots: Sequence[Tensor]) -> None:
        """A backward pass begins at these."""
        if self._steps in STEPS and self._passes < PASSES:
            self._passes += 1
            with _disable_current_modes():  # which are other people's, or see no numbers
                live, zeroed = _reached([r.grad_fn for r in roots if r.grad_fn is not None])
            self._live |= live
            self._zeroed |= zeroed

    def stepped(self) -> None:
        """The passes to come are the next step's."""
        self._steps, self._passes = self._steps + 1, 0

    def names(self, named: Mapping[str, Tensor]) -> list[str]:
        """Those that a factor of 0 stood before wherever they were read, as far as was looked."""
        return [n for n, p in named.items() if id(p) in self._zeroed and id(p) not in self._live]


def _reached(roots: Sequence[Any]) -> tuple[set[int], set[int]]:
    """The ids of the leaves that the roots hang on, and of those that they do times 0 alone."""
    seen, live, behind = set[Any](), set[int](), list[Any]()
    for node in _walked(list(roots), seen):
        live.update(_leaf(node))
        behind += _edges(node, zero=True)
    if len(seen) >= MOST:
        return set(), set()
    return live, {leaf for node in _walked(behind, seen, through=True) for leaf in _leaf(node)}


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


def _leaf(node: Any) -> list[int]:
    return [id(node.variable)] if node.name() == LEAF else []
