"""The smallest and largest number of every output and output gradient, in one pass each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from weakref import ref

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from probes.bus import Kind, See

Doubles = npt.NDArray[np.float64]

MEASURED = frozenset(
    {torch.float32, torch.float64, torch.float16, torch.bfloat16}
    | {torch.complex64, torch.complex128}
)
BLOCK = 4096  # numbers that wait as tensors of their own before they are stacked into one


def extremes(tensor: Tensor) -> tuple[Tensor, Tensor] | None:
    """The smallest and the largest number, () each, both NaN where one is NaN; None where empty.

    Works on what `aminmax` does not take: complex (the parts), sparse (the values) and nested.
    """
    tensor = tensor.detach()
    if tensor.is_nested:
        tensor = tensor.to_padded_tensor(0.0)
    elif tensor.layout is torch.sparse_coo:
        tensor = tensor.coalesce().values()
    elif tensor.layout is not torch.strided:
        tensor = tensor.values()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if tensor.numel() == 0:
        return None
    low, high = torch.aminmax(tensor)
    return low, high


def stacked(values: Sequence[Tensor]) -> Tensor:
    """The 0-d tensors as one, on the device of the first."""
    try:
        return torch.stack(list(values))
    except RuntimeError:  # they lie on several devices
        home = values[0].device
        return torch.stack([value.to(home, non_blocking=True) for value in values])


def read(groups: Sequence[Sequence[Tensor]]) -> list[Doubles]:
    """The groups of 0-d and 1-d tensors as numbers: the one read of a step."""
    flat = [tensor for group in groups for tensor in group]
    if not flat:
        return [np.empty(0) for _ in groups]
    if all(tensor.ndim == 0 for tensor in flat):
        whole = stacked(flat)
    else:
        home = flat[0].device
        whole = torch.cat([t.reshape(-1).to(home, non_blocking=True) for t in flat])  # (number,)
    numbers = whole.cpu().double().numpy()
    sizes = [sum(tensor.numel() for tensor in group) for group in groups]
    return np.split(numbers, np.cumsum(sizes)[:-1])


@dataclass(frozen=True, slots=True)
class Sightings:
    """What was seen of the sites in one step, in the order it came to be.

    numbers: (sighting,) the site's number. low, high: (sighting,) the tensor's smallest and
    largest number, NaN where it holds one.
    """

    numbers: npt.NDArray[np.int64]
    low: Doubles
    high: Doubles

    @property
    def abs_max(self) -> Doubles:
        """The largest absolute number of each sighting, NaN where there is a NaN."""
        return np.maximum(np.abs(self.low), np.abs(self.high))


class Flags:
    """Keeps each tensor's extremes on its device until the step's one read."""

    def __init__(self) -> None:
        self.sees: Mapping[Kind, See] = {Kind.OUTPUT: self.see, Kind.OUTPUT_GRAD: self.see}
        self._numbers: list[int] = []
        self._waiting: list[Tensor] = []
        self._blocks: list[Tensor] = []
        self._known: dict[int, tuple[ref[Tensor], int, Tensor, Tensor]] = {}

    def see(self, number: int, tensor: Tensor) -> None:
        """The tensor's extremes are among those to be read; a tensor seen before is not passed."""
        known = self._known.get(id(tensor))
        if known is not None and known[0]() is tensor and known[1] == tensor._version:
            low, high = known[2], known[3]
        elif tensor.dtype in MEASURED:
            try:
                # gradients need no graph, and a detached view costs as much as a small pass
                plain = tensor.detach() if tensor.requires_grad else tensor
                low, high = torch.aminmax(plain)
                self._known[id(tensor)] = (ref(tensor), tensor._version, low, high)
            except (RuntimeError, NotImplementedError):  # empty, complex, sparse, inference mode
                found = extremes(tensor)
                if found is None:
                    return
                low, high = found
        else:
            return
        self._numbers.append(number)
        waiting = self._waiting
        waiting.append(low)
        waiting.append(high)
        if len(waiting) >= BLOCK:
            self._stack()

    def _stack(self) -> None:
        self._blocks.append(stacked(self._waiting))
        self._waiting = []
        self._known.clear()

    @property
    def waiting(self) -> list[Tensor]:
        """What is to be read."""
        return self._blocks + self._waiting

    def take(self, numbers: Doubles) -> Sightings:
        """The step's sightings, from what was read of `waiting`; the next step starts empty."""
        pairs = numbers.reshape(-1, 2)  # (sighting, low and high)
        sightings = Sightings(np.array(self._numbers, np.int64), pairs[:, 0], pairs[:, 1])
        self._numbers, self._waiting, self._blocks = [], [], []
        self._known.clear()
        return sightings
