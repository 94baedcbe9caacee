"""Puts what decisions rest on into the run folder, every entry by its name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from probes.attention_names import Column, Names
from probes.attribution import (
    BASELINE,
    Attributed,
    Decision,
    Source,
    attribute,
    decide,
    outputs_of,
)
from probes.batch import leaves, sample_axes, take
from probes.finding import ExperimentError
from probes.guess import complete
from probes.layout import Layout
from probes.record import Recorder
from probes.subject import Batch, Subject

FIRST = 2  # decisions of a sample, where none is asked for
Place = tuple[int, ...]
ENTRIES = 600  # of a source that are kept, the largest

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Entries:
    """The entries of a source that are no padding. names: how they are called."""

    values: Array
    names: list[str]


def first_ones(places: Sequence[Place]) -> Sequence[Place]:
    """The first places that are scored."""
    return places[:FIRST]


def write_attributions(
    recorder: Recorder,
    subject: Subject,
    batch: Batch,
    samples: Sequence[int],
    place: Sequence[int] | None = None,
    output: str | None = None,
    pick: Callable[[Sequence[Place]], Sequence[Place]] = first_ones,
    alone: bool = True,
) -> list[Attributed]:
    """What decisions of the samples rest on lies in the record, and is returned.

    place, output: of the decision; by default those that `pick` takes of all that are scored, of
    the first output that decides. alone: whether the model sees each sample by itself; where it
    sees the others of the batch beside it, their sources are counted and not written, and no
    conductance is told.
    Raises ExperimentError where there is no such decision.
    """
    layout = complete(batch, subject.layout).layout
    axes = sample_axes(batch, subject.layout)
    written: list[Attributed] = []
    for sample in samples if axes else [0]:
        one = take(batch, [sample], subject.layout) if axes else batch
        fed, row = (batch, sample) if axes and not alone else (one, 0)
        called = subject.describe(batch, sample) if subject.describe is not None and axes else None
        for decision in _decisions(subject, fed, row, one, layout, place, output, pick):
            found = _attributed(subject, fed, layout, decision, alone).own(axes)
            words = _words(found, one, layout)
            about = {"sample": sample, "sample_name": called, "decision": words}
            names = Names(one, layout, alone=bool(axes))
            _write(recorder, len(written), found, names, layout, about)
            written.append(found)
    return written


def _decisions(
    subject: Subject,
    fed: Batch,
    row: int,
    one: Batch,
    layout: Layout,
    place: Sequence[int] | None,
    output: str | None,
    pick: Callable[[Sequence[Place]], Sequence[Place]],
) -> Iterator[Decision]:
    """Those of the sample at this row of what the model is fed."""
    model, predict = subject.model, subject.predict
    if predict is None:
        raise ExperimentError("decisions are attributed of `Subject.predict`, which is not given")
    model.eval()
    with torch.no_grad():
        found = predict(model, fed)
    named = output or _deciding(found, layout)
    places = [tuple(place)] if place is not None else pick(_scored(found, named, one, layout))
    for each in places:
        yield decide(found, named, each, row)


def _attributed(
    subject: Subject, fed: Batch, layout: Layout, decision: Decision, modules: bool
) -> Attributed:
    """Masks and labels are no sources."""
    predict = subject.predict
    assert predict is not None
    masks = (mask.key for mask in layout.masks)
    labels = (key for each in layout.labels for key in (each.key, each.mask) if key is not None)
    return attribute(
        subject.model,
        fed,
        lambda batch: predict(subject.model, batch),
        decision,
        besides={*masks, *labels},
        modules=modules,
    )


def _deciding(found: Any, layout: Layout) -> str:
    named = outputs_of(found)
    declared = (labels.output for labels in layout.labels if labels.output in named)
    first = next(declared, None) or next(iter(named), None)
    if first is None:
        raise ExperimentError("`Subject.predict` gives no floating tensor with an axis of choices")
    return first


def _scored(found: Any, output: str, one: Batch, layout: Layout) -> list[tuple[int, ...]]:
    """The places that are scored, the very first one of all where no label says."""
    shape = tuple(outputs_of(found)[output].shape[1:-1])
    for labels in layout.labels:
        leaf = leaves(one).get(labels.key)
        if labels.output == output and isinstance(leaf, Tensor) and tuple(leaf.shape[1:]) == shape:
            there = torch.ones_like(leaf[0]) if labels.ignore is None else leaf[0].ne(labels.ignore)
            scored = there.nonzero().tolist()
            if scored:
                return [tuple(each) for each in scored]
    return [(0,) * len(shape)]


def _words(found: Attributed, one: Batch, layout: Layout) -> str:
    """Such as `scores at turn 0, time 1: select`."""
    decision = found.decision
    axes = layout.axes.get(decision.output, ())[1:-1]
    names = axes if len(axes) == len(decision.place) else ("place",) * len(decision.place)
    where = ", ".join(f"{axis} {at}" for axis, at in zip(names, decision.place, strict=True))
    return f"{decision.output}{' at ' if where else ''}{where}: {_choice(found, one, layout)}"


def _choice(found: Attributed, one: Batch, layout: Layout) -> str:
    """What the choice is called, where the sample's labels name it, and what would be right."""
    decision = found.decision
    for labels in layout.labels:
        leaf, place = leaves(one).get(labels.key), (0, *decision.place)
        if labels.output != decision.output or not isinstance(leaf, Tensor):
            continue
        if leaf.ndim != len(place):
            continue
        label = int(leaf[place])
        alike = leaf[0].eq(decision.choice).nonzero().tolist()  # (place, axis)
        called = _of_labels(labels.key, Names(one, layout, alone=True), found.read)
        if called is not None:
            gold = called[decision.place]
            if label == decision.choice:
                return f"{gold}, which is right"
            named = called[tuple(alike[0])] if alike else f"choice {decision.choice}"
            return f"{named}, where {gold} is right" if label != labels.ignore else named
    return f"choice {decision.choice}"


def _of_labels(labels: str, names: Names, read: Collection[str]) -> Array | None:
    """The labels by their names, the sample axis left out; None where they have none.

    A key of the label's axes that no model reads is there for its names.
    """
    axes = names.layout.axes.get(labels)
    for key in names.layout.names:
        column = names.column(key)
        own = key == labels or (names.layout.axes.get(key) == axes and key not in read)
        if own and column is not None and column.names is not None:
            return column.names
    return None


def _fed_back(key: str, names: Names, read: Collection[str]) -> Array | None:
    """The entries of a key by the names of the labels that it holds one place later.

    So a decoder is taught; None where the key holds anything else.
    """
    fed = names.leaves.get(key)
    for labels in names.layout.labels:
        leaf = names.leaves.get(labels.key)
        if not (isinstance(fed, Tensor) and isinstance(leaf, Tensor) and fed.shape == leaf.shape):
            continue
        scored = leaf[..., :-1] != (-100 if labels.ignore is None else labels.ignore)
        called = _of_labels(labels.key, names, read)
        if called is None or fed.shape[1:] != called.shape or not scored.any():
            continue
        if torch.equal(fed[..., 1:][scored], leaf[..., :-1][scored]):
            start = np.full((*called.shape[:-1], 1), "(start)", dtype=object)
            return np.concatenate([start, called[..., :-1]], axis=-1)
    return None


def _write(
    recorder: Recorder,
    number: int,
    found: Attributed,
    names: Names,
    layout: Layout,
    about: dict[str, Any],
) -> None:
    told = {
        **about,
        "score": found.score,
        "baseline_score": found.baseline_score,
        "baseline": BASELINE,
        "delta": found.delta,
        "steps": found.steps,
    }
    for place, source in enumerate(found.sources):
        entries = _entries(source, names, layout, found.read)
        recorder.array(
            f"attribution-{number:03d}-{place:02d}", entries.values, ("entry",),
            {"entry": entries.names}, kind="attribution", key=source.key, **told,
        )  # fmt: skip
    if found.conductance:
        recorder.array(
            f"conductance-{number:03d}", np.array([*found.conductance.values()]), ("module",),
            {"module": [*found.conductance]}, kind="conductance", decision=about["decision"],
        )  # fmt: skip


def _entries(source: Source, names: Names, layout: Layout, read: Collection[str]) -> Entries:
    """The source's entries by name; axes that the names do not have are summed over."""
    values = source.values[0].numpy() if source.values.ndim > 1 else source.values.numpy()
    axes = layout.axes.get(source.key, ())[1:]
    axes = axes if len(axes) == values.ndim else tuple(f"axis{at}" for at in range(values.ndim))
    column = names.column(source.key)
    named = column if column is not None and column.names is not None else None
    kept = column.kept if column is not None else None
    called = _fed_back(source.key, names, read) if named is None else None
    if called is not None and called.shape == values.shape:
        return _flat(values, axes, called, kept)
    if named is None and not any(source.key == reads.of for reads in layout.reads):
        named = _kin(axes, values, names, layout)
    if named is None:
        return _flat(values, axes, None, kept)
    over = tuple(at for at, axis in enumerate(axes) if axis not in named.axes)
    own = values.sum(over) if named.shape != values.shape else values
    left = tuple(axis for axis in axes if axis in named.axes) if over else axes
    return _flat(own, left, named.names, named.kept)


def _kin(axes: tuple[str, ...], values: Array, names: Names, layout: Layout) -> Column | None:
    """The names of another key along axes that this one has too, the most axes first."""
    found = []
    for key in layout.names:
        column = names.column(key)
        if column is None or column.names is None or not set(column.axes) <= set(axes):
            continue
        lengths = tuple(
            n for axis, n in zip(axes, values.shape, strict=True) if axis in column.axes
        )
        if lengths == column.shape and len(set(column.axes)) == len(column.axes):
            found.append(column)
    return max(found, key=lambda column: len(column.axes), default=None)


def _flat(values: Array, axes: Sequence[str], names: Array | None, kept: Array | None) -> Entries:
    """In order; the first entry of every row of the leading axes says which one it is."""
    there = np.ones(values.shape, bool)
    if kept is not None and kept.shape == values.shape:
        there = kept.astype(bool)
    places = np.argwhere(there)
    if len(places) > ENTRIES:
        sizes = np.abs(values[there])
        largest = np.sort(np.argsort(-sizes, kind="stable")[:ENTRIES])
        places = places[largest]
    called: list[str] = []
    before: tuple[int, ...] | None = None
    for place in map(tuple, places.tolist()):
        word = str(names[place]) if names is not None else f"{axes[-1]} {place[-1]}"
        row = place[:-1]
        if row and row != before:
            where = ", ".join(f"{axis} {at}" for axis, at in zip(axes, row, strict=False))
            word = f"({where}) {word}"
        before = row
        called.append(word)
    return Entries(np.array([values[tuple(place)] for place in places], np.float64), called)
