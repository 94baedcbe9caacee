"""Whether numbers rise by a steady amount a step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Climb:
    """Numbers that rose by `slope` a step, on the `span` steps up to the last of `steps`."""

    slope: float
    span: int
    first: int
    start: float
    end: float

    @property
    def rise(self) -> float:
        """From the first number to the last."""
        return self.end - self.start


def climb(
    steps: npt.NDArray[np.int64], values: Doubles, points: int, off: float = 0.1
) -> Climb | None:
    """The longest steady climb that ends with the last number; None where there is none.

    points: the fewest that it has. Steady: none is further from the straight line between the
    first and the last than `off` of the rise. values: on a scale where steady means straight.
    """
    count = len(values)
    while count >= points:
        found = _line(steps[-count:], values[-count:], off)
        if found is not None:
            return found
        count = count * 4 // 5 if count > 10 else count - 1
    return None


def _line(steps: npt.NDArray[np.int64], values: Doubles, off: float) -> Climb | None:
    if not np.isfinite(values).all() or steps[-1] == steps[0]:
        return None
    rise, span = float(values[-1] - values[0]), int(steps[-1] - steps[0])
    if rise <= 0:
        return None
    straight = values[0] + rise * (steps - steps[0]) / span
    if np.abs(values - straight).max() > off * rise:
        return None
    return Climb(rise / span, span, int(steps[0]), float(values[0]), float(values[-1]))
