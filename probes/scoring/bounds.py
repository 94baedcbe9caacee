"""Which numbers an output can be at all, by the operator that made it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

BOUNDS = {
    "Sigmoid": (0.0, 1.0),
    "Hardsigmoid": (0.0, 1.0),
    "Softmax": (0.0, 1.0),
    "Tanh": (-1.0, 1.0),
    "Relu": (0.0, math.inf),
    "Softplus": (0.0, math.inf),
    "Exp": (0.0, math.inf),
    "LogSoftmax": (-math.inf, 0.0),
    "LogSigmoid": (-math.inf, 0.0),
}
"""By the operator's name, as its backward node has it: the least and the greatest number."""

HELD = {
    "Clamp": ("min", "max"),
    "ClampMin": ("min", "max"),
    "ClampMax": ("min", "max"),
    "Hardtanh": ("min_val", "max_val"),
}
"""Operators that hold numbers to an interval, and what their backward nodes call its ends."""

SHAPES = (
    *("Squeeze", "View", "UnsafeView", "ReshapeAlias", "Unsqueeze", "Expand", "Transpose"),
    *("Permute", "T", "Select", "Slice", "Alias", "Clone", "ToCopy", "Index", "Split", "Unbind"),
)
"""What gives the same numbers in another shape, or some of them."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """An operator, such as `sigmoid`, and between which numbers all that it gives lies.

    scaled: the line that makes others of these, where one does; then these are what is bounded.
    """

    op: str
    least: float
    most: float
    scaled: str | None = None

    def beyond(self, wanted: Tensor, share: float = 0.01) -> Tensor:
        """Like `wanted`, true where a number is out of reach.

        By more than this share of the range, or of the largest number where there is no end.
        """
        span = self.most - self.least
        slack = share * (span if math.isfinite(span) else float(wanted.abs().max()))
        return (wanted < self.least - slack) | (wanted > self.most + slack)

    @property
    def words(self) -> str:
        """The operator, and the line that makes others of its numbers."""
        return words(self.op, self.scaled)

    @property
    def fix(self) -> str:
        """What brings labels beyond it within reach."""
        return fix(self.op, self.scaled)

    def __str__(self) -> str:
        if math.isinf(self.most):
            return f"{self.least:.4g} or more"
        return (
            f"{self.most:.4g} or less"
            if math.isinf(self.least)
            else f"{self.least:.4g} to {self.most:.4g}"
        )


def words(op: str, scaled: str | None) -> str:
    """An operator with bounds, and the line that makes others of its numbers."""
    return f"`{op}`, scaled at {scaled}," if scaled else f"`{op}`"


def fix(op: str, scaled: str | None) -> str:
    """What brings labels beyond what it gives within reach."""
    if scaled:
        return f"Scale what `{op}` gives to what the labels hold, at {scaled}, or leave it out."
    return f"Leave out `{op}`, or bring the labels to what it gives."


def bounds(output: Tensor, known: Mapping[Any, Bounds] | None = None) -> Bounds | None:
    """Those of the operator that gave these numbers; None where none is known.

    known: backward node to the bounds of what it made of such numbers.
    """
    node: Any = output.grad_fn
    while node is not None:
        if known and node in known:
            return known[node]
        name = type(node).__name__.partition("Backward")[0]
        if name in BOUNDS:
            return Bounds(name.lower(), *BOUNDS[name])
        if name in HELD:
            least, most = (getattr(node, f"_saved_{each}", None) for each in HELD[name])
            return _between(name.lower(), least, most)
        if name not in SHAPES:
            return None
        node = next((each for each, _ in node.next_functions if each is not None), None)
    return None


def _between(op: str, least: Any, most: Any) -> Bounds | None:
    """These ends, where there is one at least and both are numbers."""
    ends = [each for each in (least, most) if each is not None]
    if not ends or not all(isinstance(each, (int, float)) for each in ends):
        return None
    return Bounds(
        op, -math.inf if least is None else float(least), math.inf if most is None else float(most)
    )
