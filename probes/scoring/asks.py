"""What losses of numbers ask of outputs that not every number can be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from probes.raised import source_here
from probes.scoring.bounds import Bounds, bounds

LOSSES = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
DIFFERENCES = ("sub", "__sub__", "__rsub__", "rsub")


@dataclass(frozen=True, slots=True)
class Asked:
    """Numbers that an operator with bounds is asked for. op: of the loss. source: its line."""

    op: str
    given: Bounds
    wanted: Tensor
    source: str | None


class Asks(TorchFunctionMode):
    """Notes what losses, and differences from what the batch holds, ask of outputs with bounds.

    known: where the batch's numbers lie. best: whether such an output is replaced by the nearest
    that it can be to what is asked for, so that the loss is the least that it can be.
    """

    def __init__(self, known: set[int], best: bool = False) -> None:
        super().__init__()
        self.known = known
        self.best = best
        self.found: list[Asked] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function's result."""
        given = kwargs or {}
        name = getattr(func, "__name__", "")
        pair = [*args, *given.values()][:2]
        if name in LOSSES + DIFFERENCES and all(isinstance(each, Tensor) for each in pair):
            for output, wanted in (pair, pair[::-1]):
                asked = self._note(name, output, wanted)
                if self.best and asked is not None:
                    near = wanted.clamp(asked.given.least, asked.given.most)
                    args = tuple(near if each is output else each for each in args)
                    given = {k: near if each is output else each for k, each in given.items()}
        return func(*args, **given)

    def _note(self, name: str, output: Tensor, wanted: Tensor) -> Asked | None:
        if wanted.requires_grad or not wanted.is_floating_point() or output.shape != wanted.shape:
            return None
        if name in DIFFERENCES and wanted.data_ptr() not in self.known:
            return None  # it may be anything; the batch holds labels
        if (given := bounds(output)) is None:
            return None
        self.found.append(Asked(name.strip("_"), given, wanted.detach(), source_here()))
        return self.found[-1]
