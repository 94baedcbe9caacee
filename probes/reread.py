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
    batches: Iterable[Batch] = subject.batches
    if isinstance(batches, Iterator):
        return replace(subject, batches=Reread(batches))
    return subject
