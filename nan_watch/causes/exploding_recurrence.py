"""NAN018: a recurrence explodes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

from nan_watch.case.material import Case
from nan_watch.case.naming import told
from probes.finding import Evidence, Finding


@dataclass(frozen=True, slots=True)
class ExplodingRecurrence:
    """A state, or its gradient, grows by a factor every time step until it overflows.

    A recurrence multiplies by the same matrix again and again; past a spectral radius of 1 that
    is a power of it. The growth per step is shown: a steady factor is the mark of a recurrence,
    and the overflow only its last step.

    Sick:    `nn.RNN(..., nonlinearity="relu")` with `weight_hh` of spectral radius 1.5, 200 steps
    Healthy: `nn.init.orthogonal_(rnn.weight_hh_l0)`, LSTM gates, and clipped gradients
    """

    steps: int = 4
    growth: float = 1e3

    code: ClassVar[str] = "NAN018"
    rule: ClassVar[str] = "exploding-recurrence"
    family: ClassVar[Literal["cause"]] = "cause"

    def lacks(self, case: Case) -> str | None:
        """The origin."""
        return case.lacks_origin

    def judge(self, case: Case) -> Iterator[Finding]:
        """The factor per step, and over how many."""
        for of, sizes in (("state", self._states(case)), ("gradient", self._gradients(case))):
            factor = self._factor(sizes)
            if factor is not None:
                shown = [size for size in sizes if math.isfinite(size)][-6:]
                yield told(
                    self,
                    case,
                    f"is where the {of} of a recurrence overflows that grew by a factor of "
                    f"{factor:.3g} a time step",
                    "Start the recurrent matrix orthogonal or smaller, take an LSTM or GRU, and "
                    "clip the gradient norm; with many time steps cut the history (truncated "
                    "backpropagation).",
                    *(Evidence(f"largest |{of}|, newest time steps", size) for size in shown),
                )
                return

    def _states(self, case: Case) -> Sequence[float]:
        growth = None if case.origin is None else case.origin.growth
        return growth.state if growth is not None else self._repeated(case)

    def _gradients(self, case: Case) -> Sequence[float]:
        growth = None if case.origin is None else case.origin.growth
        return growth.gradient[::-1] if growth is not None else ()

    def _repeated(self, case: Case) -> Sequence[float]:
        """What the same operator, on the same line, wrote again and again, oldest first."""
        by_place: dict[tuple[str, str, str | None], list[float]] = {}
        for made in case.makers:
            if made.largest is not None and made.node is None and made.source is not None:
                key = (made.op, made.site, made.source)
                by_place.setdefault(key, []).append(made.largest)
        return max(by_place.values(), key=len, default=[])[::-1]

    def _factor(self, sizes: Sequence[float]) -> float | None:
        """The growth a step, where it goes on to the end and is large in all."""
        known = [size for size in sizes if math.isfinite(size) and size > 0]
        if len(known) < self.steps or known[-1] < self.growth * known[0]:
            return None
        pairs = list(pairwise(known))
        rising = sum(after > before for before, after in pairs)
        if rising < 0.8 * len(pairs):
            return None
        return float((known[-1] / known[0]) ** (1 / len(pairs)))
