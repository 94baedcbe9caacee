"""Which samples a suite trains on: cut from the batches, nested, chosen by seed."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from torch import Tensor

from overfit.join import join
from probes.batch import leaves, sample_axes, sample_count, take
from probes.errors import RequestError
from probes.subject import Batch, Subject

POOL = 2048
"""Samples that the draw looks at, or the largest size if that is more: batches may be endless."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sample stands: index of its batch, index within it; None for the whole batch."""

    batch: int
    index: int | None


@dataclass(frozen=True, slots=True)
class Samples:
    """What one suite trains on.

    batches: as few as the shapes allow; nothing is padded.
    names: how each sample is called, in the order in which they stand in the batches.
    places: where each comes from.
    unit: what `size` counts, `batches` where a batch cannot be cut into samples.
    group: the value that all samples share under `Subject.group`; None where they share none.
    notes: what is to be said about the choice.
    """

    batches: tuple[Batch, ...]
    names: tuple[str, ...]
    places: tuple[Place, ...]
    unit: str
    group: str | None
    notes: tuple[str, ...]


def draw(subject: Subject, sizes: Sequence[int], seed: int) -> dict[int, Samples]:
    """The samples of each size, the smaller among the larger, the same for the same seed.

    Raises RequestError where a size is larger than the data.
    """
    largest = max(sizes)
    batches, places = _pool(subject, largest)
    if len(places) < largest:
        raise RequestError(
            f"`--sizes` asks for {largest}, but `Subject.batches` holds {_amount(places)} in "
            f"all: ask for at most {len(places)}."
        )
    order, shared, notes = _ordered(subject, batches, places, largest, random.Random(seed))
    if len(places) >= POOL:
        notes = (f"the draw looked at the first {len(places)} samples", *notes)
    if all(place.index is None for place in places):
        notes = ("the batches cannot be cut into samples, so sizes count whole batches", *notes)
    return {
        size: _samples(subject, batches, order[:size], shared.get(size), notes) for size in sizes
    }


def _pool(subject: Subject, largest: int) -> tuple[list[Batch], list[Place]]:
    batches: list[Batch] = []
    places: list[Place] = []
    for batch in subject.batches:
        count = sample_count(batch, subject.layout)
        indices: Iterable[int | None] = [None] if count is None else range(count)
        places += [Place(len(batches), index) for index in indices]
        batches.append(batch)
        if len(places) >= max(POOL, largest):
            break
    return batches, places


def _amount(places: Sequence[Place]) -> str:
    whole = all(place.index is None for place in places)
    unit = "batch that cannot be cut" if whole else "sample"
    return f"{len(places)} {unit if len(places) == 1 else _plural(unit)}"


def _plural(unit: str) -> str:
    return unit.replace("batch", "batches") if "batch" in unit else unit + "s"


def _ordered(
    subject: Subject,
    batches: Sequence[Batch],
    places: Sequence[Place],
    largest: int,
    chance: random.Random,
) -> tuple[list[Place], dict[int, str], tuple[str, ...]]:
    """The places in the order of the draw, the group each size has in common, and what to say."""
    if subject.group is None:
        return chance.sample(places, len(places)), {}, ()
    groups = _groups(subject.group, batches, places)
    enough = [name for name, members in groups.items() if len(members) >= largest]
    if enough:
        name = chance.choice(enough)
        order = chance.sample(groups[name], len(groups[name]))
        return order, dict.fromkeys(range(1, largest + 1), name), ()
    by_size = sorted(groups, key=lambda name: -len(groups[name]))
    order = [place for name in by_size for place in chance.sample(groups[name], len(groups[name]))]
    first = len(groups[by_size[0]])
    note = (
        f"no `{subject.group}` has {largest} samples (the largest, {by_size[0]}, has {first}), "
        "so the samples come from the largest ones together"
    )
    return order, dict.fromkeys(range(1, first + 1), by_size[0]), (note,)


def _groups(key: str, batches: Sequence[Batch], places: Sequence[Place]) -> dict[str, list[Place]]:
    groups: dict[str, list[Place]] = {}
    for place in places:
        groups.setdefault(_group_of(key, batches[place.batch], place), []).append(place)
    return groups


def _group_of(key: str, batch: Batch, place: Place) -> str:
    found = leaves(batch)
    if key not in found:
        raise RequestError(
            f"`Subject.group` is `{key}`, but a batch holds {', '.join(found)}: name one of them."
        )
    values = found[key]
    if isinstance(values, (str, int, float)):  # one value for the whole batch
        return str(values)
    position = place.index or 0
    if len(values) <= position:
        raise RequestError(
            f"`Subject.group` is `{key}`, which holds {len(values)} values in batch "
            f"{place.batch} of more samples: one value a sample was expected."
        )
    value = values[position]
    return str(value.tolist() if isinstance(value, Tensor) else value)


def _samples(
    subject: Subject,
    batches: Sequence[Batch],
    chosen: Sequence[Place],
    group: str | None,
    notes: tuple[str, ...],
) -> Samples:
    ordered = sorted(chosen, key=lambda place: (place.batch, place.index or 0))
    parts: list[tuple[Batch, dict[str, int]]] = []
    kept: list[list[Place]] = []
    for at, members in groupby(ordered, key=lambda place: place.batch):
        kept.append(list(members))
        parts.append(_cut(subject, batches[at], kept[-1]))
    joined = join(parts)
    places = [place for _, rows in joined for row in rows for place in kept[row]]
    return Samples(
        batches=tuple(batch for batch, _ in joined),
        names=tuple(_name(subject, batches[place.batch], place) for place in places),
        places=tuple(places),
        unit="batches" if all(place.index is None for place in chosen) else "samples",
        group=group,
        notes=notes,
    )


def _cut(subject: Subject, batch: Batch, places: Sequence[Place]) -> tuple[Batch, dict[str, int]]:
    """The batch of these samples, and the sample axes of its leaves, as the whole one has them."""
    axes = sample_axes(batch, subject.layout)
    indices = [place.index for place in places if place.index is not None]
    return (take(batch, indices, subject.layout), axes) if indices else (batch, axes)


def _name(subject: Subject, batch: Batch, place: Place) -> str:
    where = f"batch {place.batch}"
    if subject.describe is None:
        return where if place.index is None else f"{where}, sample {place.index}"
    try:
        return str(subject.describe(batch, place.index or 0))
    except Exception as error:
        raise RequestError(
            f"`Subject.describe` raised {type(error).__name__} for sample {place.index or 0} of "
            f"{where} ({error}): it is to return how to call that sample."
        ) from error
