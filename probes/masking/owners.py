"""Which rows of a batch that cannot be cut, as one of graphs, belong to which sample."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.experiment import Experiment, with_leaf
from probes.subject import Batch

NAMED = re.compile(r"(^|_)(batch|graph|sample)(_?(idx|index|ids?|vector))?$")
COLUMNS = (3, 4)  # of a table of places: the sample, two places in it, what joins them
FEW = 8  # rows of such a table that say too little


@dataclass(frozen=True)
class Owners:
    """Which sample each row of some keys is of.

    keys: those whose first axis are the rows. of: (row,) its sample. inner: how many rows each of
    these stands for where the next axis is flattened as well. told: the key that says so.
    """

    keys: tuple[str, ...]
    of: Tensor
    inner: int
    told: str

    @property
    def size(self) -> int:
        """How many samples there are."""
        return int(self.of.max()) + 1

    def row(self, sample: int, value: Tensor) -> Tensor | None:
        """True where an output or a site's value is the sample's own; None where unknown."""
        rows = len(value) if value.ndim else 0
        if rows == len(self.of):
            own = self.of == sample
        elif rows == len(self.of) * self.inner:
            own = (self.of == sample).repeat_interleave(self.inner)
        elif rows == self.size:
            own = torch.arange(rows, device=self.of.device) == sample
        else:
            return None
        return own.to(value.device).reshape(-1, *[1] * (value.ndim - 1))

    def exchanged(self, experiment: Experiment, moved: Tensor) -> Batch | None:
        """The batch with the content of these rows turned by one; None where that is the same."""
        batch, rows = experiment.batch, moved.nonzero().flatten()
        same = True
        for key in self.keys:
            tensor = experiment.tensors[key]
            other = tensor.index_copy(0, rows, tensor[rows.roll(1)])
            same = same and torch.equal(other, tensor)
            batch = with_leaf(batch, key, other)
        return None if same else batch


def owners(experiment: Experiment) -> Owners | None:
    """Found where keys differ in length, so that the batch cannot be cut; None where it is unclear.

    By a key that is called after the batch and counts its samples up; or by a table of integers
    whose first column counts the samples, and the others the places of another key's second axis.
    """
    if experiment.size or any("sample" in axes for axes in experiment.declared.axes.values()):
        return None
    return next(_all(experiment.tensors), None)


def _all(tensors: Mapping[str, Tensor]) -> Iterator[Owners]:
    whole = {k: t for k, t in tensors.items() if not t.is_floating_point() and t.numel()}
    for key, values in whole.items():
        if NAMED.search(key.rpartition(".")[2]) and counts_up(values):
            rows = len(values)
            keys = tuple(k for k, t in tensors.items() if k != key and t.ndim and len(t) == rows)
            if any(tensors[k].ndim > 1 for k in keys):
                yield Owners(keys, values, 1, key)
        for table in (values, values.T) if values.ndim == 2 else ():
            yield from _by_table(key, table, tensors)


def counts_up(values: Tensor) -> bool:
    """Whether it is 0, 0, 0, 1, 1, 2, ...: samples of several rows, without a gap."""
    if values.ndim != 1 or values.dtype is torch.bool or int(values[0]) != 0:
        return False
    steps = values[1:] - values[:-1]
    counts = bool(((steps == 0) | (steps == 1)).all())
    return counts and 3 <= int(values[-1]) + 1 < len(values)


def _by_table(key: str, table: Tensor, tensors: Mapping[str, Tensor]) -> Iterator[Owners]:
    if table.shape[1] not in COLUMNS or len(table) < FEW or table.dtype is torch.bool:
        return
    samples, places = int(table[:, 0].max()) + 1, int(table[:, 1:].max()) + 1
    if samples < 3 or samples == places or int(table.min()) < 0:
        return
    held = [k for k, t in tensors.items() if k != key and t.ndim > 1 and len(t) == samples]
    if any(tensors[k].shape[1] == places for k in held):
        yield Owners(tuple(held), torch.arange(samples, device=table.device), places, key)
