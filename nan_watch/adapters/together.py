"""Several optimizers of one model, watched as one."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer


class Together(Optimizer):
    """Holds the optimizers and their groups; each is stepped by itself, as before.

    each: the optimizers.
    """

    def __init__(self, each: Sequence[Optimizer]) -> None:
        groups = [group for one in each for group in one.param_groups]
        super().__init__(groups[0]["params"][:1], {})  # torch wants each parameter in one group
        self.param_groups = groups
        self.state = ChainMap(*(one.state for one in each))  # type: ignore[assignment]
        self.each = tuple(each)
        for number, one in enumerate(each):  # as attributes they are found, and guarded
            setattr(self, f"optimizer_{number}", one)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """All of them have stepped."""
        loss = None if closure is None else closure()
        for one in self.each:
            one.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """No parameter has a gradient."""
        for one in self.each:
            one.zero_grad(set_to_none)


def together(optimizers: Sequence[Optimizer]) -> Optimizer:
    """The one optimizer, or all of them as one."""
    return optimizers[0] if len(optimizers) == 1 else Together(optimizers)
