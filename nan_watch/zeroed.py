"""Parameters that reach the loss only through a factor that the code writes as the number 0."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from probes.times_zero import parted

STEPS = (0, 4)  # that are looked at: the first, and one after the start of most warm-ups
PASSES = 4  # of each such step
LEAF = "torch::autograd::AccumulateGrad"


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
            live, zeroed = map(_leaves, parted(roots))
            self._live |= live
            self._zeroed |= zeroed

    def stepped(self) -> None:
        """The passes to come are the next step's."""
        self._steps, self._passes = self._steps + 1, 0

    def names(self, named: Mapping[str, Tensor]) -> list[str]:
        """Those that a factor of 0 stood before wherever they were read, as far as was looked."""
        return [n for n, p in named.items() if id(p) in self._zeroed and id(p) not in self._live]


def _leaves(nodes: Iterable[Any]) -> set[int]:
    return {id(node.variable) for node in nodes if node.name() == LEAF}
