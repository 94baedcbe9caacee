"""What a change of shape does to axes: the pieces that both shapes are made of."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import prod

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an axis before, and of an axis after; its length, the last being the innermost."""

    before: int
    after: int
    length: int


def pieces(before: Shape, after: Shape) -> list[Piece] | None:
    """The pieces, the outermost first; None where an axis after cuts across borders of before.

    Axes of length 1 have none. (4, 6) to (2, 12) has 2 | 2 6; (4, 6) to (3, 8) has none.
    """
    borders = sorted(_borders(before) | _borders(after))
    if any(large % small for small, large in pairwise(borders)):
        return None
    found = [
        Piece(_axis(before, small), _axis(after, small), large // small)
        for small, large in pairwise(borders)
    ]
    return found[::-1]


def _borders(shape: Shape) -> set[int]:
    """How many numbers lie within each axis, and within none: 1, the last axis, the last two."""
    return {prod(shape[i:]) for i in range(len(shape) + 1)}


def _axis(shape: Shape, inner: int) -> int:
    """The axis whose numbers step by so many, or by less than the next one does."""
    return next(i for i in range(len(shape) - 1, -1, -1) if prod(shape[i:]) > inner)


def is_torn(before: Shape, after: Shape, samples: int) -> bool:
    """Whether an axis is cut in two whose parts join other axes on both sides.

    What joins the axis of samples does not count: frames may be stacked over a whole batch.
    """
    found = pieces(before, after) or []
    mates = {
        one.before: [p for p in found if p.before == one.before]
        for one in found
        if before[one.before] != samples
    }
    return any(
        _joins(own[0], found, before, samples) and _joins(own[-1], found, before, samples)
        for own in mates.values()
        if len(own) > 1
    )


def _joins(piece: Piece, found: list[Piece], before: Shape, samples: int) -> bool:
    return any(
        other.after == piece.after and other.before != piece.before
        for other in found
        if before[other.before] != samples
    )


def cuts_places(before: Shape, after: Shape) -> bool:
    """Of (sample, channel, place, ...): whether the last axis after is a part of a place axis.

    While channels are joined with the rest of the places.
    """
    found = pieces(before, after) or []
    last = [each for each in found if each.after == len(after) - 1]
    if len(last) != 1 or last[0].before < 2 or last[0].length == before[last[0].before]:
        return False
    joined = {each.after for each in found if each.before == 1}
    return any(each.after in joined and each.before > 1 for each in found)
