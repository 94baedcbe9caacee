"""A framework's data loader, read from the start each time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor

from probes.replay import RandomState
from probes.seeding import kept_random_state
from probes.subject import Batch, length_of


class Passes:
    """Each pass makes the loader anew, and an order that is drawn is drawn alike."""

    def __init__(self, make: Callable[[], Iterable[Batch]]) -> None:
        self._make = make
        self._random = RandomState.take()
        self._generators: dict[int, tuple[torch.Generator, Tensor]] = {}

    def __iter__(self) -> Iterator[Batch]:
        with kept_random_state():
            self._random.restore()
            batches = iter(self._begin())
            first = list(islice(batches, 1))  # samplers draw their order when they are first asked
        return map(plain, chain(first, batches))

    def _begin(self) -> Iterable[Batch]:
        """The loader, whose own generators stand where they stood at the first pass."""
        loader = self._make()
        for owner in (loader, getattr(loader, "sampler", None)):
            generator = getattr(owner, "generator", None)
            if generator is not None:
                kept = self._generators.setdefault(
                    id(generator), (generator, generator.get_state())
                )
                generator.set_state(kept[1])
        return loader


class CountedPasses(Passes):
    """Passes whose loader has a length."""

    def __init__(self, make: Callable[[], Iterable[Batch]], length: int) -> None:
        super().__init__(make)
        self._length = length

    def __len__(self) -> int:
        return self._length


def passes(make: Callable[[], Iterable[Batch]]) -> Passes:
    """Passes over what `make` makes, with a length where that has one."""
    length = length_of(make())
    return Passes(make) if length is None else CountedPasses(make, length)


def plain(batch: Any) -> Batch:
    """A mapping of a framework's own class, as a dict."""
    return dict(batch) if isinstance(batch, Mapping) else batch
