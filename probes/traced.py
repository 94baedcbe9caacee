"""The extremes of every watched output, written by operators inside of a compiled graph.

A hook that `torch.compile` traces can neither call back nor keep a tensor; it can write numbers
into a tensor that was there before. A slot that was not written says that its output was not seen.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from probes.nested import tensors_in

Doubles = npt.NDArray[np.float64]

UNSEEN = (float("inf"), float("-inf"))  # low above high


class Traced:
    """Slots for the lowest and highest number of each module's output, by the module's place.

    names: of the modules. `numbers`: (module, low and high), on the model's device.
    """

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        self.names = names
        home = next((p.device for p in model.parameters()), torch.device("cpu"))
        wide = torch.float32 if home.type == "mps" else torch.float64
        with torch.inference_mode(False), torch.no_grad():
            self._unseen = torch.tensor([UNSEEN] * len(names), dtype=wide, device=home)
            self.numbers = self._unseen.clone()

    def see(self, place: int, output: Any) -> None:
        """The slot holds the extremes of what it held and of every number of the output."""
        for tensor in _floats(output):
            low, high = torch.aminmax(tensor.detach())
            slot = self.numbers[place]
            low, high = low.to(slot), high.to(slot)
            both = torch.minimum(slot[0], low), torch.maximum(slot[1], high)
            slot.copy_(torch.stack(both))

    def waiting(self) -> list[Tensor]:
        """What is to be read; nothing where torch's compiler was never loaded."""
        return [self.numbers.flatten()] if "torch._dynamo" in sys.modules else []

    def take(self, numbers: Doubles) -> tuple[list[int], Doubles]:
        """The places that were seen, with (place, low and high), from what was read of them."""
        if not len(numbers):
            return [], np.empty((0, 2))
        with torch.no_grad():
            self.numbers.copy_(self._unseen)
        pairs = numbers.reshape(-1, 2)
        seen = ~(pairs[:, 0] > pairs[:, 1])  # a NaN was seen
        return np.flatnonzero(seen).tolist(), pairs[seen]


def _floats(value: Any) -> Iterator[Tensor]:
    """The dense real tensors of an output that hold numbers."""
    for each in tensors_in(value):
        if each.is_floating_point() and each.layout is torch.strided and each.numel():
            yield each


@contextmanager
def recompiled() -> Iterator[None]:
    """Inside, code is compiled anew and with the hooks of now; what was compiled is dropped.

    Torch guards no hooks by default: a model that is compiled already would not run ours, and two
    models of one class would share the code that was traced with the hooks of one of them.
    """
    if "torch._dynamo" not in sys.modules:  # loading it takes seconds, and nothing is compiled yet
        yield
        return
    torch._dynamo.reset()
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=False):
        yield
