"""What is looked at in a few steps only: closed units, and edges of the dtype's range."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn

from nan_watch.flags import Doubles
from nan_watch.readings import Readings, Rows
from nan_watch.sampled.edges import Edges
from nan_watch.sampled.units import Units


class Sampled:
    """The dearer looks at a model, which only some steps bear; none where it is not `on`."""

    def __init__(self, model: nn.Module, on: bool) -> None:
        self.on = on
        self.units = Units(model)
        self.edges = Edges(model)

    @property
    def observers(self) -> list[Units]:
        """What has to see outputs; nothing where there is no activation to look at."""
        return [self.units] if self.on and self.units.watched else []

    def looking(self, step: int) -> AbstractContextManager[None]:
        """The operators of the step's forward pass are looked at, where it is sampled."""
        return self.edges.looking(step) if self.on else nullcontext()

    def waiting(self) -> list[Tensor]:
        """What is to be read."""
        return [*self.units.waiting(), *self.edges.waiting()]

    def rows(self, numbers: Doubles, step: int, readings: Readings) -> Rows:
        """The step's rows, from what was read of `waiting`."""
        units, edges = numbers[: self.units.pending], numbers[self.units.pending :]
        rows = readings.one("edge", "bits_left", self.edges.take(edges, step))
        for stat, shares in self.units.take(units, step + 1).items():
            rows |= readings.one("unit", stat, shares)
        return rows
