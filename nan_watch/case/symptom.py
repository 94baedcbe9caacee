"""What the watch knows at the step that it stopped: the material of the causes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from nan_watch.flags import Sightings
from nan_watch.state import Poisoned
from probes.bus import Kind, Site


@dataclass(frozen=True, slots=True)
class Reading:
    """The smallest and largest number of one tensor; both NaN where it holds a NaN.

    summed: only its sum is known, which both of them then are: it tells whether the numbers are
    finite, and nothing of their size.
    """

    site: str
    low: float
    high: float
    summed: bool = False

    @property
    def abs_max(self) -> float | None:
        """The largest absolute number; NaN where there is a NaN, None where it is not known."""
        if self.summed and self.finite:
            return None
        return self.low if math.isnan(self.low) else max(abs(self.low), abs(self.high))

    @property
    def finite(self) -> bool:
        """Whether every number is finite; false too where the sum of finite ones overflowed."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def only_minus_inf(self) -> bool:
        """Whether what is not finite is `-inf` alone, as in the scores of a healthy mask."""
        return self.low == -math.inf and self.high < math.inf

    @property
    def kind(self) -> str:
        """NaN, inf or -inf: the worst that it holds."""
        if math.isnan(self.low):
            return "NaN"
        return "-inf" if self.only_minus_inf else "inf"

    @property
    def holds(self) -> str:
        """What it holds that is not finite, in words, as far as it is known."""
        if not self.summed:
            return self.kind
        return "NaN, or inf and -inf" if self.kind == "NaN" else f"{self.kind} by its sum"


def readings_of(
    sightings: Sightings, sites: Sequence[Site]
) -> tuple[tuple[Reading, ...], tuple[Reading, ...]]:
    """What was read of the outputs, and of their gradients, in the order it came to be."""
    found: dict[Kind, list[Reading]] = {Kind.OUTPUT: [], Kind.OUTPUT_GRAD: []}
    columns = (sightings.numbers, sightings.low, sightings.high, sightings.summed)
    for number, low, high, summed in zip(*(each.tolist() for each in columns), strict=True):
        found[sites[number].kind].append(Reading(sites[number].name, low, high, summed))
    return tuple(found[Kind.OUTPUT]), tuple(found[Kind.OUTPUT_GRAD])


class Past(Protocol):
    """The healthy steps before, as far as they are kept in memory."""

    def of(self, kind: str, stat: str, site: str) -> list[tuple[int, float]]:
        """Step and value, oldest first, of the steps in which the site was seen."""

    def most(self, kind: str, stat: str) -> list[tuple[int, float]]:
        """Step and largest value over all sites, oldest first, where any was seen."""


@dataclass(frozen=True, slots=True)
class Symptom:
    """A step whose loss, gradients or parameters are not finite.

    loss: None where the watch was not told. outputs: in the order of the forward pass.
    output_grads: in the order of the backward pass. root: what the model itself is called.
    grads: gradients that are not finite. state: parameters and buffers that were not finite
    before the step. fresh: buffers that the step itself made so. loaded: the names of those that
    were so before the first step. past: the steps before. raised: the exception that ended the
    step, if one did. of_update: whether it is the step's update that is looked at, which left
    `state`, and not its passes.
    """

    step: int
    tier: str
    loss: float | None
    outputs: tuple[Reading, ...]
    output_grads: tuple[Reading, ...]
    root: str
    grads: tuple[Poisoned, ...]
    state: tuple[Poisoned, ...]
    fresh: tuple[Poisoned, ...]
    loaded: tuple[str, ...]
    past: Past
    raised: str | None = None
    of_update: bool = False

    def of_its_update(self) -> Symptom:
        """What the update of the step before has left, as a symptom of that update."""
        step = max(0, self.step - 1)
        return replace(self, step=step, of_update=True, grads=(), loss=None)
