"""Which numbers an output can be at all, by the operator that made it."""

from __future__ import annotations

import math
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

SHAPES = (
    *("Squeeze", "View", "UnsafeView", "ReshapeAlias", "Unsqueeze", "Expand", "Transpose"),
    *("Permute", "T", "Select", "Slice", "Alias", "Clone", "ToCopy", "Index", "Split", "Unbind"),
)
"""What gives the same numbers in another shape, or some of them."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """An operator, such as `sigmoid`, and between which numbers all that it gives lies."""

    op: str
    least: float
    most: float

    def beyond(self, wanted: Tensor, share: float = 0.01) -> Tensor:
        """Like `wanted`, true where a number is out of reach.

        By more than this share of the range, or of the largest number where there is no end.
        """
        span = self.most - self.least
        slack = share * (span if math.isfinite(span) else float(wanted.abs().max()))
        return (wanted < self.least - slack) | (wanted > self.most + slack)

    def __str__(self) -> str:
        if math.isinf(self.most):
            return f"{self.least:g} or more"
        return (
            f"{self.most:g} or less"
            if math.isinf(self.least)
            else f"{self.least:g} to {self.most:g}"
        )


def bounds(output: Tensor) -> Bounds | None:
    """Those of the operator that gave these numbers; None where none is known."""
    node: Any = output.grad_fn
    while node is not None:
        name = type(node).__name__.partition("Backward")[0]
        if name in BOUNDS:
            return Bounds(name.lower(), *BOUNDS[name])
        if name not in SHAPES:
            return None
        node = next((each for each, _ in node.next_functions if each is not None), None)
    return None
