"""What losses of numbers ask of outputs that not every number can be."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from probes.raised import source_here
from probes.scoring.bounds import Bounds
from probes.scoring.ranges import Ranges

LOSSES = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
DIFFERENCES = ("sub", "rsub")


@dataclass(slots=True)
class Asked:
    """Numbers that an operator with bounds is asked for. op: of the loss. source: its line.

    made: what the loss, or the difference, came to; value: the same, as it was then.
    """

    op: str
    given: Bounds
    wanted: Tensor
    source: str | None
    made: Tensor | None = field(default=None, repr=False)
    value: Tensor | None = field(default=None, repr=False)

    @property
    def beyond(self) -> Tensor:
        """True where a number that is asked for lies out of reach."""
        return self.given.beyond(self.wanted)


class Asks(TorchFunctionMode):
    """Notes what losses, and differences from what the batch holds, ask of outputs with bounds.

    known: where the batch's numbers lie. model: what gives the outputs. best: of which of these
    calls, in their order, the output is replaced by the nearest that it can be to what is asked
    for, so that the loss is the least that it can be.
    """

    def __init__(
        self, known: set[int], model: nn.Module | None = None, best: Collection[int] = ()
    ) -> None:
        super().__init__()
        self.known = known
        self.best = best
        self.found: list[Asked] = []
        self._ranges = Ranges(model)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function's result."""
        given = kwargs or {}
        name = getattr(func, "__name__", "").strip("_")
        pair = [*args, *given.values()][:2]
        asked: Asked | None = None
        if name in LOSSES + DIFFERENCES and all(isinstance(each, Tensor) for each in pair):
            for output, wanted in (pair, pair[::-1]):
                new = self._note(name, output, wanted)
                asked = new or asked
                if new is not None and len(self.found) - 1 in self.best:
                    near = wanted.clamp(new.given.least, new.given.most)
                    args = tuple(near if each is output else each for each in args)
                    given = {k: near if each is output else each for k, each in given.items()}
        made = self._ranges.run(func, args, given)
        if asked is not None and isinstance(made, Tensor):
            asked.made, asked.value = made, made.detach().clone()
        return made

    def _note(self, name: str, output: Tensor, wanted: Tensor) -> Asked | None:
        if wanted.requires_grad or not wanted.is_floating_point() or output.shape != wanted.shape:
            return None
        if name in DIFFERENCES and wanted.data_ptr() not in self.known:
            return None  # it may be anything; the batch holds labels
        if self._ranges.is_learned(wanted):  # as are the entries of a codebook
            return None
        if (given := self._ranges.of(output)) is None:
            return None
        self.found.append(Asked(name, given, wanted.detach(), source_here()))
        return self.found[-1]


def out_of_reach(found: Sequence[Asked], loss: Tensor) -> Iterator[tuple[int, Asked, Tensor]]:
    """The place of each of them that is scored, itself, and where what counts is out of reach.

    A difference is scored where the loss draws each of its numbers towards zero; any other may be
    one of an input. What a mask or a weight of zero takes out of the loss does not count, nor does
    what the way back cannot be gone to.
    """
    for i, each in enumerate(found):
        if each.made is None or each.value is None or not each.made.requires_grad:
            continue
        grad = _gradient(loss, each.made)
        if grad is None or grad.shape != each.value.shape:
            continue
        if each.op in DIFFERENCES and bool((grad * each.value < 0).any()):
            continue
        yield i, each, each.beyond & (grad.abs() > 0)


def _gradient(loss: Tensor, made: Tensor) -> Tensor | None:
    try:
        total = loss.sum()
        return torch.autograd.grad(total, [made], retain_graph=True, allow_unused=True)[0]
    except RuntimeError:  # as by a checkpoint that knows `backward` alone
        return None
