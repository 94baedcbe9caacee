"""A state of which one part is set anew for some rows, while another is carried on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from probes.states.recurrence import Call, Held, Recurrent


@dataclass(frozen=True, slots=True)
class InPart:
    """Which parts of a state are set anew and carried on, of how many rows of all calls.

    anew, kept: numbers of tensors of the state and of their layers. rows: (call, sample), true
    where it is so, from the second call on. again: how often the part is carried on in the call
    after. source: of the line that makes the calls.
    """

    site: str
    anew: tuple[int, int]
    kept: tuple[int, int]
    layers: int
    rows: Tensor
    again: int
    source: str | None

    @property
    def first(self) -> tuple[int, int]:
        """The first call and the first sample in it."""
        call, sample = self.rows.nonzero()[0].tolist()
        return call + 1, sample


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """(call, sample) whether a part is what the call before gave; and whether it is set anew.

    What is set anew is one and the same row each time, such as zeros.
    """

    number: tuple[int, int]
    kept: Tensor
    anew: Tensor


def in_part(each: Recurrent) -> InPart | None:
    """Where rows of one part are set anew, others not, and another part goes on in all of them."""
    for calls in each.groups():
        parts = list(_parts(each, calls)) if each.parts and len(calls) > 2 else []
        for one in parts:
            other = next((two for two in parts if _goes_on(one, two)), None)
            if other is not None:
                again = int((one.anew[:-1] & one.kept[1:]).sum())
                layers = 1 + max(part.number[1] for part in parts)
                source = next((call.source for call in calls[1:] if call.source), calls[0].source)
                return InPart(each.site, one.number, other.number, layers, one.anew, again, source)
    return None


def _goes_on(one: _Part, two: _Part) -> bool:
    """Whether the first is set anew for some rows of a call, and the second never with it."""
    some = one.anew.any(1) & one.kept.any(1)
    return bool(some.any()) and bool(two.kept[one.anew].all())


def _parts(each: Recurrent, calls: Sequence[Call]) -> Iterator[_Part]:
    """Those that are carried on, or set anew in one way, in every row of every call."""
    pairs = list(pairwise(calls))
    for number in range(each.parts):
        if any(len(two.before) <= number for _, two in pairs):
            return
        steps = [(one.after(each.parts)[number], two.before[number]) for one, two in pairs]
        if len({tuple(held.value.shape) for step in steps for held in step}) != 1:
            return
        for layer in range(_layers(each, steps[0][0])):
            gave, given = (
                torch.stack([_rows(each, step[side], layer) for step in steps]) for side in (0, 1)
            )
            kept = (gave == given).all(-1)
            rows = given[~kept]
            if not bool((rows != rows[:1]).any()):
                trivial = (gave == rows[:1]).all(-1) if len(rows) else torch.zeros_like(kept)
                yield _Part((number, layer), kept & ~trivial, ~kept)


def _layers(each: Recurrent, held: Held) -> int:
    stacked = isinstance(each.module, nn.RNNBase) and held.value.ndim == 3
    return held.value.shape[0] if stacked else 1


def _rows(each: Recurrent, held: Held, layer: int) -> Tensor:
    """(sample, unit) of a layer."""
    stacked = isinstance(each.module, nn.RNNBase) and held.value.ndim == 3
    value = held.value[layer] if stacked else held.value
    return value.flatten(1) if value.ndim > 1 else value[None]
