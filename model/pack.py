"""An utterance and the units of a database laid out as inputs of an encoder, none of them cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from model.vocabulary import Vocabulary

Place = tuple[int, int]
"""Which input, and which position in it."""


@dataclass(frozen=True, slots=True)
class Packed:
    """`[CLS] utterance [SEP] unit [SEP] unit ... [SEP]`, as many inputs as it takes.

    inputs: word pieces of each, at most the limit. heads: how many at the start of each are
    `[CLS] utterance [SEP]`. utterance: the place of each of its word pieces; units: for each
    unit the places of its word pieces.
    """

    inputs: list[list[int]]
    heads: list[int]
    utterance: list[Place]
    units: list[list[Place]]


def pack(
    utterance: Sequence[int],
    units: Sequence[Sequence[int]],
    vocabulary: Vocabulary,
    limit: int,
    repeat: bool = True,
) -> Packed:
    """Every word piece of utterance and units has its place; no input is over `limit`.

    The utterance stands before the units in every input, or unless `repeat` in the first one
    alone. One that would leave no room for the longest unit is split, and stands nowhere twice.
    """
    longest = max(map(len, units), default=0)
    fits = len(utterance) + 2 + longest + 1 <= limit
    layout = _Inputs(vocabulary, limit, list(utterance) if repeat and fits else [])
    spoken: list[Place] = []
    for part in _split(utterance, limit - 2):
        spoken += layout.head(part)
    return Packed(layout.inputs, layout.heads, spoken, [layout.unit(unit) for unit in units])


def _split(pieces: Sequence[int], size: int) -> list[Sequence[int]]:
    return [pieces[i : i + size] for i in range(0, len(pieces), size)] or [[]]


class _Inputs:
    """Inputs as they fill; `again` is what the head of every further one says."""

    def __init__(self, vocabulary: Vocabulary, limit: int, again: list[int]) -> None:
        self.vocabulary = vocabulary
        self.limit = limit
        self.again = again
        self.inputs: list[list[int]] = []
        self.heads: list[int] = []

    def head(self, pieces: Sequence[int]) -> list[Place]:
        """A new input begins with these; returns where they stand."""
        self.inputs.append([self.vocabulary.start, *pieces, self.vocabulary.stop])
        self.heads.append(len(pieces) + 2)
        return [(len(self.inputs) - 1, 1 + i) for i in range(len(pieces))]

    def unit(self, pieces: Sequence[int]) -> list[Place]:
        """The unit stands in one input, or where none can hold it in several."""
        if len(pieces) + 1 > self._room():
            self.head(self.again)
        places: list[Place] = []
        for part in _split(pieces, self._room() - 1):
            if len(part) + 1 > self._room():
                self.head(self.again)
            places += self._put(part)
        return places

    def _room(self) -> int:
        return self.limit - len(self.inputs[-1])

    def _put(self, pieces: Sequence[int]) -> list[Place]:
        last = self.inputs[-1]
        first = len(last)
        last += [*pieces, self.vocabulary.stop]
        return [(len(self.inputs) - 1, first + i) for i in range(len(pieces))]
