"""Slopes of a loss that writes into parameters each time it runs, such as a moving average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.slopes.slope import Direction, Exact, Slope, dot

SIZE = 1e-6  # of a direction, for what the loss writes on the way
ROUNDS = 12  # in which what is written elsewhere is to be held
FAR = 1e-5  # of the largest move: what is written has moved as well


@dataclass(frozen=True, slots=True)
class _Written:
    """way: how the parameters are moved before the loss runs. left: how far they are then."""

    way: Direction
    left: Direction


def slope_along(exact: Exact, gradient: Mapping[str, Tensor | None], way: Direction) -> Slope:
    """The slope along a direction of what the loss is computed with, beside the backward pass's.

    Where the loss writes into the parameters that were moved, as to a length of 1, they have moved
    as far as they stand elsewhere once it has run; into others, which no gradient reaches, as the
    moving average that gives a target, these stay where they are.
    """
    slope = exact.along(way, dot(gradient, way))
    if slope.agree:
        return slope
    found = _written(exact, [n for n, g in gradient.items() if g is None and n not in way], way)
    if found is None:
        return slope
    again = exact.along(found.way, dot(gradient, found.left))
    return again if again.agree else slope


def thrown_away(exact: Exact, gradient: Mapping[str, Tensor | None]) -> list[str]:
    """The parameters that have a gradient and are written anew by the loss, whatever stood there.

    So that the loss is the same from wherever an optimizer has brought them.
    """
    live = dict(exact.model.named_parameters())
    taught = [name for name, grad in gradient.items() if grad is not None and _any(grad)]
    moves = {name: torch.ones_like(live[name]) for name in taught}
    before, after = exact.left(), exact.left(moves, 1.0)
    written = [name for name in taught if not torch.equal(after[name], live[name] + 1)]

    def is_lost(name: str) -> bool:
        only = {name: moves[name]}
        same = torch.equal(exact.left(only, 1.0)[name], before[name])
        return same and exact.value(only, 1.0) == exact.loss

    return [name for name in written if is_lost(name)]


def _any(grad: Tensor) -> bool:
    return bool(grad.to_dense().any())


def _written(exact: Exact, others: Sequence[str], way: Direction) -> _Written | None:
    """What the loss writes while it runs; None where it writes nothing, or others do not hold."""
    before, moved, most = exact.left(), dict(way), _largest(way, way)
    for _ in range(ROUNDS):
        after = exact.left(moved, SIZE)
        left = {name: (after[name] - each) / SIZE for name, each in before.items()}
        off = [name for name in others if _largest(left, [name]) > FAR * most]
        if not off:
            rest = {name: each - way.get(name, 0) for name, each in left.items()}
            told = _largest(rest, rest) > FAR * most or len(moved) > len(way)
            return _Written(moved, left) if told else None
        for name in off:
            moved[name] = moved.get(name, 0) - left[name]
    return None


def _largest(moves: Direction, names: Sequence[str] | Direction) -> float:
    return max((float(moves[n].abs().max()) for n in names if moves[n].numel()), default=0.0)
