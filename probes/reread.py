"""Batches that come once can be read again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from probes.subject import Batch, Subject


class Reread:
    """What an iterator gave is kept, and more is drawn from it as it is asked for."""

    def __init__(self, source: Iterator[Batch]) -> None:
        self._source = source
        self._kept: list[Batch] = []

    def __iter__(self) -> Iterator[Batch]:
        at = 0
        while at < len(self._kept) or self._draw():
            yield self._kept[at]
            at += 1

    def _draw(self) -> bool:
        for batch in self._source:
            self._kept.append(batch)
            return True
        return False


def reread(subject: Subject) -> Subject:
    """The subject with batches that can be read again, were they a generator's."""
    held = None if subject.eval_batches is None else _again(subject.eval_batches)
    return replace(subject, batches=_again(subject.batches), eval_batches=held)


def _again(batches: Iterable[Batch]) -> Iterable[Batch]:
    return Reread(batches) if isinstance(batches, Iterator) else batches
