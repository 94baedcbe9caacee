"""Positions over windows laid end to end that do not count what each window begins with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from math import prod

import torch
from torch import Tensor

from probes.batch import leaves
from probes.experiment import Experiment
from probes.finding import ExperimentError
from probes.reading.alive import Alive, alive, site_of
from probes.reading.indexing import Pick
from probes.subject import Batch

BATCHES = 16  # that are run


@dataclass
class Window:
    """What the positions of all samples name in the windows of one number.

    count: positions. heads: of them those that name what a window begins with. as_named, moved:
    labels told by the token that is named, and by the one so many places on as windows stand
    before; looked: labels that were asked for.
    """

    count: int = 0
    heads: int = 0
    as_named: int = 0
    moved: int = 0
    looked: int = 0


@dataclass
class Uncounted:
    """What an index into windows of `width` tokens, laid end to end, names, window by window.

    of: the key of ids. key: the one that holds the index; None where the model makes it. head: the
    id that every window begins with. labels: the key of one class a position, if there is one.
    """

    of: str
    key: str | None
    head: int
    width: int
    labels: str | None
    site: str
    line: str | None
    windows: dict[int, Window] = field(default_factory=dict)

    def total(self, later: bool) -> Window:
        """Of the first windows, or of all the later ones."""
        parts = [each for at, each in self.windows.items() if (at > 0) == later]
        names = ("count", "heads", "as_named", "moved", "looked")
        return Window(**{name: sum(getattr(each, name) for each in parts) for name in names})


@dataclass(frozen=True)
class _Named:
    """A token of a window that is named, the one that far on, and what it is labelled."""

    window: int
    token: int
    moved: int
    label: int | None


def uncounted(experiment: Experiment) -> Iterator[Uncounted]:
    """For every pick of single tokens from windows laid end to end, what it names."""
    seen = alive(experiment)
    for number, pick in enumerate(seen.picks):
        of = _windows(experiment, pick)
        if of is None:
            continue
        ids = experiment.tensors[of]
        index = _index(pick)
        key = _key(experiment.tensors, index)
        found = Uncounted(
            of,
            key,
            int(ids[0, 0, 0]),
            ids.shape[-1],
            _labels(experiment, index),
            site_of(experiment, seen, pick.order),
            pick.line,
        )
        _count(found, list(_named(experiment, found, seen, number)))
        yield found


def _windows(experiment: Experiment, pick: Pick) -> str | None:
    """The ids (sample, window, token) whose tokens stand along the axis that is picked from.

    Every window begins with one id, but for those of padding alone.
    """
    index = _index(pick)
    if pick.axis != 1 or index.ndim != 2 or not pick.source.requires_grad:
        return None
    for key, ids in experiment.tensors.items():
        if ids.ndim != 3 or ids.is_floating_point() or ids.dtype is torch.bool:
            continue
        shape = (len(ids), prod(ids.shape[1:]))
        if ids.shape[1] > 1 and tuple(pick.source.shape[:2]) == shape and _begins(ids):
            return key if len(index) == len(ids) else None
    return None


def _begins(ids: Tensor) -> bool:
    """Whether windows begin with one id, which stands nowhere else."""
    rows = ids.flatten(0, 1)
    full = rows[(rows != rows[:, :1]).any(1)]
    if not len(full) or bool((full[:, 0] != full[0, 0]).any()):
        return False
    return not bool((full[:, 1:] == full[0, 0]).any()) and bool((full[:, 1:] != full[0, 1]).any())


def _index(pick: Pick) -> Tensor:
    """(sample, unit) where each unit is one position, repeated along what is picked or not."""
    index = pick.index
    if index.ndim == 3 and bool((index == index[..., :1]).all()):
        index = index[..., 0]
    if len(pick.rows) == 1 and index.ndim == 2:
        rows = pick.rows[0]
        own = torch.arange(len(index), device=rows.device)[:, None]
        if rows.ndim != 2 or not bool((rows == own).all()):
            return index.new_zeros(0)
    elif pick.op == "aten.index":
        return index.new_zeros(0)
    return index


def _key(tensors: Mapping[str, Tensor], index: Tensor) -> str | None:
    same = (k for k, t in tensors.items() if t.shape == index.shape and torch.equal(t, index))
    return next(same, None)


def _labels(experiment: Experiment, index: Tensor) -> str | None:
    """The key of one class for every position."""
    for each in experiment.targets:
        tensor = experiment.tensors[each]
        whole = not tensor.is_floating_point() and not tensor.is_complex()
        if tensor.shape == index.shape and whole and not torch.equal(tensor, index):
            return each
    return None


def _named(experiment: Experiment, found: Uncounted, seen: Alive, number: int) -> Iterator[_Named]:
    """What the same pick names in the first batches."""
    own = seen.picks[number]
    for batch in islice(experiment.subject.batches, BATCHES):
        tensors = {path: leaf for path, leaf in leaves(batch).items() if isinstance(leaf, Tensor)}
        index = tensors.get(found.key) if found.key is not None else _again(experiment, batch, own)
        if found.of in tensors and index is not None and len(index) == len(tensors[found.of]):
            labels = tensors.get(found.labels or "")
            if labels is not None and labels.shape != index.shape:
                labels = None
            yield from _of_batch(tensors[found.of], index, labels)


def _again(experiment: Experiment, batch: Batch, own: Pick) -> Tensor | None:
    """The index of the last pick of that line in a pass of the batch."""
    try:
        picks = alive(experiment, batch).picks
    except ExperimentError:
        return None
    same = [_index(each) for each in picks if (each.line, each.op) == (own.line, own.op)]
    return same[-1].to("cpu") if same and same[-1].ndim == 2 else None


def _of_batch(ids: Tensor, index: Tensor, labels: Tensor | None) -> Iterator[_Named]:
    width, rows = ids.shape[-1], ids.flatten(1).tolist()
    kinds = [None] * len(rows) if labels is None else labels.tolist()
    for row, places, kind in zip(rows, index.tolist(), kinds, strict=True):
        for at in range(_end(places)):
            place = places[at]
            if not 0 <= place < len(row):
                continue
            window = place // width
            on = min(place + window, len(row) - 1)
            label = None if kind is None or kind[at] < 0 else kind[at]
            yield _Named(window, row[place], row[on], label)


def _end(places: list[int]) -> int:
    """How many positions stand before those of padding, which repeat 0 or are negative."""
    end = len(places)
    while end and places[end - 1] <= 0:
        end -= 1
    return end


def _count(found: Uncounted, named: list[_Named]) -> None:
    """The windows are filled in; tokens are known by what they are labelled in first windows."""
    known: dict[int, Counter[int]] = {}
    for each in named:
        if not each.window and each.label is not None:
            known.setdefault(each.token, Counter())[each.label] += 1
    told = {token: labels.most_common(1)[0][0] for token, labels in known.items()}
    for each in named:
        into = found.windows.setdefault(each.window, Window())
        into.count += 1
        into.heads += each.token == found.head
        if each.label is not None:
            into.looked += 1
            into.as_named += told.get(each.token) == each.label
            into.moved += told.get(each.moved) == each.label
