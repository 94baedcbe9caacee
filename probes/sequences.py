"""Which autograd node an operator belongs to, by the number that it shares with its backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def next_sequence() -> int:
    """The number that autograd will give to the next node of this thread."""
    number: int = torch.autograd._get_sequence_nr()  # type: ignore[attr-defined]
    return number


def is_same(one: Tensor, two: Tensor) -> bool:
    """Whether they are the same numbers at the same place in memory."""
    return (
        one.layout is two.layout
        and one.layout is torch.strided
        and one.data_ptr() == two.data_ptr()
        and one.shape == two.shape
        and one.stride() == two.stride()
    )


class Sequences:
    """Tells the node of each operator of a step; `saw` must be called after every one.

    What an operator in place will overwrite, and its backward needs, autograd clones just before:
    the node of that clone is made after the operator's own.
    """

    def __init__(self) -> None:
        self._cloned: tuple[Tensor, Tensor, int] | None = None

    def saw(self, name: str, args: Any, out: Any) -> None:
        """The operator has run."""
        clones = name == "aten.clone" and args and isinstance(out, Tensor)
        self._cloned = (args[0], out, next_sequence()) if clones else None

    def saved(self, overwritten: Tensor | None) -> Tensor | None:
        """The clone of what the operator that is being called overwrites; None without one."""
        if self._cloned is None or overwritten is None:
            return None
        source, clone, number = self._cloned
        return clone if number == next_sequence() and is_same(source, overwritten) else None

    def of(self, overwritten: Tensor | None = None) -> int:
        """The number of the node made last for the operator that is being called."""
        return next_sequence() - (1 if self.saved(overwritten) is None else 2)
