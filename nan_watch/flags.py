"""The extremes of every output and output gradient, or in most steps its sum, in one pass each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from weakref import ref

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nan_watch.sampled.sampling import SHARES, share_measured
from probes.bus import Bus, Kind, See
from probes.wrapped import local

Doubles = npt.NDArray[np.float64]
NOTHING: Doubles = np.empty(0)

MEASURED = frozenset(
    {torch.float32, torch.float64, torch.float16, torch.bfloat16}
    | {torch.complex64, torch.complex128}
)
BLOCK = 4096  # slots at most; and numbers that wait as tensors of their own before they are stacked
CHUNK = 64  # slots at first
SUMMED = (torch.float32, torch.float64)  # in half precision a sum overflows, or takes as long


def extremes(tensor: Tensor) -> tuple[Tensor, Tensor] | None:
    """The smallest and the largest number, () each, both NaN where one is NaN; None where empty.

    Works on what `aminmax` does not take: complex (the parts), sparse (the values) and nested.
    """
    tensor = local(tensor.detach())
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
    single: list[Tensor] = []
    parts: list[Tensor] = []
    counts = []  # by group: how many numbers come from 1-d tensors, and how many from 0-d ones
    for group in groups:
        before, wide = len(single), 0
        for tensor in group:
            if tensor.ndim == 0:
                single.append(tensor)
            else:
                parts.append(tensor)
                wide += tensor.numel()
        counts.append((wide, len(single) - before))
    if not single and not parts:
        return [np.empty(0) for _ in groups]
    if single:
        parts.append(stacked(single))
    whole = parts[0] if len(parts) == 1 else joined(parts)
    host = whole.cpu()
    host = host.float() if host.dtype is torch.bfloat16 else host  # which numpy does not know
    numbers = host.numpy().astype(np.float64)  # a copy: slots are written again
    return _dealt(counts, numbers, len(numbers) - len(single))


def _dealt(counts: Sequence[tuple[int, int]], numbers: Doubles, single: int) -> list[Doubles]:
    """Each group's own numbers, of which those of 0-d tensors stand at `single` and after."""
    out, part = [], 0
    for wide, alone in counts:
        own = []
        if wide:
            own.append(numbers[part : part + wide])
            part += wide
        if alone or not wide:
            own.append(numbers[single : single + alone])
            single += alone
        out.append(own[0] if len(own) == 1 else np.concatenate(own))
    return out


def joined(parts: Sequence[Tensor]) -> Tensor:
    """The 1-d tensors as one, on the device of the first, in a dtype that holds them all."""
    home = parts[0].device
    return torch.cat([part.to(home, non_blocking=True) for part in parts])  # (number,)


@dataclass(frozen=True, slots=True)
class Sightings:
    """What was seen of the sites in one step, in the order it came to be.

    numbers: (sighting,) the site's number. low, high: (sighting,) the tensor's smallest and
    largest number, NaN where it holds one; where `summed`, (sighting,), is true, both are its
    sum: finite where all numbers are, and else NaN or the infinity that it holds, unless numbers
    near the range of their dtype overflowed it.
    """

    numbers: npt.NDArray[np.int64]
    low: Doubles
    high: Doubles
    summed: npt.NDArray[np.bool_]

    @classmethod
    def none(cls) -> Sightings:
        """No site was seen."""
        return cls(np.empty(0, np.int64), np.empty(0), np.empty(0), np.empty(0, bool))

    @property
    def any_nan(self) -> bool:
        """Whether a tensor among them holds a NaN, or an infinity above and one below."""
        return bool(np.isnan(self.low).any())

    @property
    def abs_max(self) -> Doubles:
        """The largest absolute number of each sighting, NaN where there is a NaN.

        Minus one, which none is, where only a finite sum is known.
        """
        largest = np.maximum(np.abs(self.low), np.abs(self.high))
        largest[self.summed & np.isfinite(self.low)] = -1.0
        return largest


class Slots:
    """Places in a few tensors where extremes are written as they are found: no stacking later.

    free: two 0-d views each, for a low and a high number of the dtype, on the device.
    """

    def __init__(self, like: Tensor) -> None:
        self.dtype, self.device = like.dtype, like.device
        self.free: list[tuple[Tensor, ...]] = []
        self._flat: list[Tensor] = []

    def grow(self) -> None:
        """There are twice as many."""
        count = max(CHUNK, len(self.free))
        with torch.inference_mode(False), torch.no_grad():
            flat = torch.zeros(2 * count, dtype=self.dtype, device=self.device)
            self._flat.append(flat)  # low and high in turn
            self.free += zip(flat[0::2].unbind(), flat[1::2].unbind(), strict=True)

    def filled(self, used: int) -> list[Tensor]:
        """The first `used` slots, low and high in turn, as 1-d tensors."""
        out, left = [], 2 * used
        for flat in self._flat:
            if left > 0:
                out.append(flat[:left])
            left -= len(flat)
        return out


class Flags:
    """Keeps each tensor's extremes, or its sum, on its device until the step's one read.

    Those of the first tensor's dtype and device go to slots, others wait as tensors of their own
    and are always measured.
    """

    def __init__(self) -> None:
        self.sees: Mapping[Kind, See] = {Kind.OUTPUT: self.see, Kind.OUTPUT_GRAD: self.see}
        self._numbers: list[int] = []
        self._places: list[int] = []  # by sighting: its slot, or -1 less its place among the loose
        self._slots: Slots | None = None
        self._used = 0
        self._summed: list[bool] = []  # by slot that is used: whether it holds a sum
        self._steps = 0
        self._share: int | None = None  # of the sites whose extremes are taken; None: of all
        self._waiting: list[Tensor] = []
        self._blocks: list[Tensor] = []
        self._loose = 0
        self._known: dict[int, tuple[ref[Tensor], int, int]] = {}
        self._compiled: tuple[Any, npt.NDArray[np.int64]] = None, np.empty(0, np.int64)
        self._plan()

    def see(self, number: int, tensor: Tensor) -> None:
        """What was taken of the tensor is to be read; one that was seen before is not passed."""
        known = self._known.get(id(tensor))
        if known is not None and known[0]() is tensor and known[1] == tensor._version:
            place = known[2]
        else:
            slots = self._slots
            if slots is None or tensor.dtype is not slots.dtype or tensor.device != slots.device:
                self._see_loose(number, tensor)
                return
            place = self._used
            if place == len(slots.free):
                if place >= BLOCK:
                    self._see_loose(number, tensor)
                    return
                slots.grow()
            try:
                # gradients need no graph, and a detached view costs as much as a small pass
                plain = tensor.detach() if tensor.requires_grad else tensor
                summed = self._share is not None and number % SHARES != self._share
                if summed and plain.numel():
                    torch.sum(plain, None, out=slots.free[place][0])
                else:
                    torch.aminmax(plain, out=slots.free[place])
                self._known[id(tensor)] = (ref(tensor), tensor._version, place)
            except (RuntimeError, NotImplementedError):  # empty, sparse, nested, inference mode
                self._see_loose(number, tensor)
                return
            self._used = place + 1
            self._summed.append(summed)
        self._numbers.append(number)
        self._places.append(place)

    def _see_loose(self, number: int, tensor: Tensor) -> None:
        """The extremes wait as two tensors; the first ones make the slots, for those to come."""
        if tensor.dtype not in MEASURED:
            return
        found = extremes(tensor)
        if found is None:
            return
        if self._slots is None and tensor.layout is torch.strided and not tensor.is_complex():
            self._slots = Slots(tensor)
        self._loose += 1
        place = -self._loose
        with suppress(RuntimeError):  # an inference tensor has no version
            self._known[id(tensor)] = (ref(tensor), tensor._version, place)
        self._numbers.append(number)
        self._places.append(place)
        self._waiting += found
        if len(self._waiting) >= BLOCK:
            self._blocks.append(stacked(self._waiting))
            self._waiting = []
            self._known.clear()

    @property
    def waiting(self) -> list[Tensor]:
        """What is to be read."""
        slots = self._slots.filled(self._used) if self._slots is not None and self._used else []
        return slots + self._blocks + self._waiting

    def take(
        self, numbers: Doubles, traced: Doubles = NOTHING, bus: Bus | None = None
    ) -> Sightings:
        """The step's sightings, from what was read of `waiting`; the next step starts empty.

        traced: what was read of the bus's, which compiled code wrote.
        """
        if (self._numbers, self._places) != self._order:
            self._plan()
        places = self._rows
        pairs = numbers.reshape(-1, 2)[places]  # (sighting, low and high, or a sum and nothing)
        summed = np.array(self._summed + [False] * self._loose, bool)[places]
        low, high = pairs[:, 0], np.where(summed, pairs[:, 0], pairs[:, 1])
        sightings = Sightings(self._sites, low, high, summed)
        if bus is not None and len(traced):
            sightings = self._with_traced(sightings, traced, bus)
        self.forget()
        self._steps += 1
        if self._slots is not None and self._slots.dtype in SUMMED:
            self._share = share_measured(self._steps)
        return sightings

    def _with_traced(self, seen: Sightings, traced: Doubles, bus: Bus) -> Sightings:
        places, pairs = bus.traced.take(traced)
        if not places:
            return seen
        key = (places, self._order)
        if key != self._compiled[0]:  # the same array while the order is the same
            more = np.array([bus.traced_site(place) for place in places], np.int64)
            self._compiled = key, np.concatenate([more, seen.numbers])
        return Sightings(
            self._compiled[1],
            np.concatenate([pairs[:, 0], seen.low]),
            np.concatenate([pairs[:, 1], seen.high]),
            np.concatenate([np.zeros(len(places), bool), seen.summed]),
        )

    def _plan(self) -> None:
        """Site and row of what is read are known, for all steps in which they come in this order.

        `_sites`: (sighting,) numbers of sites; the same object while the order is the same.
        `_rows`: (sighting,) rows of what is read, where those of loose tensors follow the slots.
        """
        self._order = list(self._numbers), list(self._places)
        self._sites = np.array(self._numbers, np.int64)
        places = np.array(self._places, np.int64)
        self._rows = np.where(places < 0, self._used - 1 - places, places)

    def forget(self) -> None:
        """Nothing is waiting to be read."""
        self._numbers, self._places, self._waiting, self._blocks = [], [], [], []
        self._used = self._loose = 0
        self._summed = []
        self._known.clear()
