"""Columns of ids that a model moves into one table, each by an offset of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.reading.alive import alive
from probes.reading.asked import is_ids
from probes.reading.indexing import Pick


@dataclass(frozen=True, slots=True)
class Column:
    """A key of one id a sample, or an entry of the last axis of one of several.

    offset: what is added to each of its ids before the table is asked for them.
    """

    key: str
    entry: int | None
    offset: int

    def __str__(self) -> str:
        return f"`{self.key}`" if self.entry is None else f"`{self.key}[..., {self.entry}]`"

    def of(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Its ids in a batch."""
        tensor = batch[self.key]
        return tensor if self.entry is None else tensor[..., self.entry]


@dataclass(frozen=True, slots=True)
class Moved:
    """A table of so many rows, and the columns that are looked up in it; line: of the code.

    alone: nothing else is looked up in it. ends: columns of different ids, all of which ask for its
    last row.
    """

    name: str
    rows: int
    columns: tuple[Column, ...]
    line: str | None
    alone: bool = True
    ends: tuple[Column, ...] = ()


def moved(experiment: Experiment) -> Iterator[Moved]:
    """Tables whose look-ups are columns of ids of the batch, moved by offsets."""
    model = experiment.subject.model
    held = {id(t): name for name, t in (*model.named_buffers(), *model.named_parameters())}
    seen, found = alive(experiment), dict[str, list[Pick]]()
    for pick in (*seen.looked_up, *seen.picks):
        name = held.get(id(pick.source))
        if name is not None and pick.axis == 0 and not pick.rows and pick.op != "aten.gather":
            found.setdefault(name, []).append(pick)
    for name, picks in found.items():
        each = [_columns(experiment, pick.index) for pick in picks]
        columns, rows = dict.fromkeys(one for some in each for one in some), len(picks[0].source)
        last = [] if columns or len(picks) > 1 else ends(experiment.tensors, picks[0].index, rows)
        if columns or last:
            alone = all(each)
            yield Moved(name, rows, tuple(columns), picks[0].line, alone, tuple(last))


def _columns(experiment: Experiment, index: Tensor) -> Sequence[Column]:
    """Of one look-up; none where one of its columns is no key's, moved by one number."""
    ids = {key: t for key, t in experiment.tensors.items() if is_ids(t) and len(t) > 2}
    for key, tensor in ids.items():
        if tensor.ndim > 1 and tensor.shape == index.shape:
            steps = (index - tensor).flatten(0, -2)
            if bool((steps == steps[0]).all()):
                return [Column(key, i, int(step)) for i, step in enumerate(steps[0])]
    single = {key: t for key, t in ids.items() if t.ndim == 1 and key not in experiment.targets}
    apart = index[:, None] if index.ndim == 1 else index
    if apart.ndim != 2 or len(apart) != experiment.size:
        return []
    found = [_single(single, column) for column in apart.T]
    known = [each for each in found if each is not None]
    return known if len(known) == len(found) else []


def ends(batch: Mapping[str, Tensor], index: Tensor, rows: int) -> Sequence[Column]:
    """Columns of a key, moved by offsets and clamped, all of whose ids ask for the last row."""
    for key, ids in batch.items():
        if not is_ids(ids) or not 1 < ids.ndim == index.ndim or ids.shape != index.shape:
            continue
        apart, asked = ids.flatten(0, -2), index.flatten(0, -2)
        step = (asked - apart).amax(0)
        others = (asked != asked[0]).any(0) & (step > 0)
        if bool((asked == (apart + step).clamp(max=rows - 1)).all()) and bool(others.any()):
            last = (apart != apart[0]).any(0) & (asked == rows - 1).all(0)
            return [Column(key, i, 0) for i in last.nonzero().flatten().tolist()]
    return []


def _single(keys: Mapping[str, Tensor], index: Tensor) -> Column | None:
    """The one key whose ids, which differ, were all moved by one number."""
    fits = [
        Column(key, None, int(index[0] - tensor[0]))
        for key, tensor in keys.items()
        if tensor.shape == index.shape
        and len((index - tensor).unique()) == 1
        and len(torch.unique(tensor)) > 1
    ]
    return fits[0] if len(fits) == 1 else None
