"""A part of the loss that weighs next to nothing, and so is not learned beside the others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from overfit.curves import Curves
from overfit.terms import WHOLE

LITTLE = 0.2  # of a part's own gradient: what the whole loss passes on of it
LOW = 0.2  # of its start: what a part fell to that is learned
BEYOND = 10.0  # times another's gradient: that of a part which is not learned

Norms = Mapping[str, Mapping[str, float]]
"""Part of the loss to the gradient norm that it gives each module; `<loss>` is the whole."""


@dataclass(frozen=True, slots=True)
class Weighed:
    """A part, and what the whole loss passes on of its gradient at the first module of its own."""

    part: str
    weight: float
    site: str

    @property
    def is_little(self) -> bool:
        """Whether it is so little that the part is drowned."""
        return self.weight < LITTLE


def weighed(norms: Norms, part: str) -> Weighed | None:
    """By its gradient at the modules that it alone reaches; None where there are none."""
    mine, whole = norms.get(part, {}), norms.get(WHOLE, {})
    own = own_modules(norms, part)
    if not own or not whole:
        return None
    return Weighed(part, _size(whole, own) / _size(mine, own), own[0])


def own_modules(norms: Norms, part: str) -> list[str]:
    """The modules to which this part gives a gradient, and no other does."""
    others = [row for other, row in norms.items() if other not in (part, WHOLE)]
    mine = norms.get(part, {})
    return [m for m, norm in mine.items() if norm > 0 and not any(row.get(m) for row in others)]


def starved(curves: Curves, head: str) -> Weighed | None:
    """The part that is not learned and weighs little: the head's, or one that bears no head's name.

    Whether a part is not learned is told by its values, or by its gradient beside the others'.
    """
    norms = curves.look.parts if curves.look is not None else {}
    if head in norms:
        return weighed(norms, head)
    found = [
        each
        for part in norms
        if part != WHOLE and part not in curves.heads and _is_left(curves, norms, part)
        if (each := weighed(norms, part)) is not None and each.is_little
    ]
    return min(found, key=lambda each: each.weight, default=None)


def _is_left(curves: Curves, norms: Norms, part: str) -> bool:
    values = curves.parts.get(part, ())
    if len(values) > 1:
        return values[-1] > LOW * values[0]
    others = [other for other in norms if other not in (part, WHOLE)]
    mine = _size(norms[part], own_modules(norms, part))
    return all(mine >= BEYOND * _size(norms[o], own_modules(norms, o)) for o in others)


def _size(norms: Mapping[str, float], modules: list[str]) -> float:
    return math.sqrt(sum(norms.get(each, 0.0) ** 2 for each in modules))
