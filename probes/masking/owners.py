"""Which rows of a batch that cannot be cut, as one of graphs, belong to which sample."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from probes.experiment import Experiment, with_leaf
from probes.subject import Batch

SAMPLES = "batch|graph|sample|example|bag|scene|cloud|molecule|mol"  # what a batch consists of
NAMED = re.compile(rf"(^|_)({SAMPLES})(_?(idx|index|ids?|vector))?$")
OFFSETS = re.compile(rf"^(({SAMPLES})_)?(ptr|offsets?|cu_?seq_?lens?(_q|_k)?)$")
COLUMNS = (3, 4)  # of a table of places: the sample, two places in it, what joins them
TOGETHER = (2, 3)  # graphs that are compared with each other, as of pairs
FEW = 8  # rows of such a table that say too little


@dataclass(frozen=True)
class Owners:
    """Which sample each row of some keys is of.

    keys: those whose first axis are the rows. of: (row,) its sample. inner: how many rows each of
    these stands for where the next axis is flattened as well. told: the key that says so. edges:
    (edge,) the sample of each, of every key of pairs of rows none of which leads to another's.
    """

    keys: tuple[str, ...]
    of: Tensor
    inner: int
    told: str
    edges: tuple[Tensor, ...] = ()

    @property
    def size(self) -> int:
        """How many samples there are."""
        return int(self.of.max()) + 1

    def row(self, sample: int, value: Tensor) -> Tensor | None:
        """True where an output or a site's value is the sample's own; None where unknown.

        As where two axes are as long, of all pairs of rows, or where so long are several things.
        """
        rows = len(value) if value.ndim else 0
        if list(value.shape).count(rows) > 1:
            return None
        found = [each for each in self._all if len(each) == rows]
        if not found or not all(torch.equal(each, found[0]) for each in found):
            return None
        own = found[0] == sample
        return own.to(value.device).reshape(-1, *[1] * (value.ndim - 1))

    @cached_property
    def _all(self) -> list[Tensor]:
        """The sample of each row, of whatever has rows: nodes, samples, edges, and loops with."""
        samples = torch.arange(self.size, device=self.of.device)
        loops = [torch.cat([each, self.of]) for each in self.edges]
        return [self.of, self.of.repeat_interleave(self.inner), samples, *self.edges, *loops]

    def exchanged(self, experiment: Experiment, sample: int) -> Batch | None:
        """The batch with what all others hold exchanged; None where that is the same.

        Of numbers, the rows of the longest of them stand in all of them, so that sums over all
        change too. What is counted, as it may be a place among the sample's own rows, is that of
        its own first row; what is true or false stays.
        """
        batch, rows = experiment.batch, (self.of != sample).nonzero().flatten()
        same = True
        for key in self.keys:
            tensor = experiment.tensors[key]
            taken = self._taken(tensor, rows, sample)
            other = tensor if taken is None else tensor.index_copy(0, rows, tensor[taken])
            same = same and torch.equal(other, tensor)
            batch = with_leaf(batch, key, other)
        return None if same else batch

    def _taken(self, tensor: Tensor, rows: Tensor, sample: int) -> Tensor | None:
        """From which rows each of these is given another's content."""
        if self.size == len(self.of):  # a row is a sample
            return rows.roll(1)
        counts, order = self.of.bincount(), self.of.argsort(stable=True)
        first = counts.cumsum(0) - counts  # of each sample, where the rows stand sample by sample
        if tensor.dtype is torch.bool:
            return None
        if not tensor.is_floating_point():
            return order[first[self.of[rows]]]
        longest = counts.index_fill(0, torch.tensor([sample], device=counts.device), 0).argmax()
        within = order.argsort()[rows] - first[self.of[rows]]
        return order[first[longest] + within]


def owners(experiment: Experiment) -> Owners | None:
    """Found where keys differ in length, so that the batch cannot be cut; None where it is unclear.

    By a key that is called after the batch and counts its samples up, or names them in any order
    where another key has a row for each; by one of offsets, where each sample's rows begin; or by a
    table of integers whose first column counts the samples, and the others the places of another
    key's second axis. Offsets that are called after something else, as sentences, are none.
    None where there is a key of as many rows as pairs of samples, or threes.
    """
    if experiment.size or any("sample" in axes for axes in experiment.declared.axes.values()):
        return None
    return next(_all(experiment.tensors), None)


def _all(tensors: Mapping[str, Tensor]) -> Iterator[Owners]:
    whole = {k: t for k, t in tensors.items() if not t.is_floating_point() and t.numel()}
    for key, values in whole.items():
        if NAMED.search(key.rpartition(".")[2]) and (counts_up(values) or names_all(values)):
            yield from _by_rows(key, values, tensors)
        for table in (values, values.T) if values.ndim == 2 else ():
            yield from _by_table(key, table, tensors)
    for key, values in whole.items():
        if OFFSETS.search(key.rpartition(".")[2]):
            yield from _by_offsets(key, values, tensors)


def _by_rows(key: str, values: Tensor, tensors: Mapping[str, Tensor]) -> Iterator[Owners]:
    rows, samples = len(values), int(values.max()) + 1
    keys = tuple(k for k, t in tensors.items() if k != key and t.ndim and len(t) == rows)
    pairs = {k: ends for k, t in tensors.items() if (ends := pair_ends(t, rows)) is not None}
    others = {len(t) for k, t in tensors.items() if t.ndim and k not in pairs}
    if samples in {count * n for n in others for count in TOGETHER}:
        return
    wide = counts_up(values) and any(tensors[k].ndim > 1 for k in keys)
    if wide or (keys and samples in others):
        graphs = [values[ends] for ends in pairs.values()]
        yield Owners(keys, values, 1, key, tuple(g[0] for g in graphs if torch.equal(g[0], g[1])))


def _by_offsets(key: str, values: Tensor, tensors: Mapping[str, Tensor]) -> Iterator[Owners]:
    """0, 3, 5, 9: where rows begin, and how many there are in all; and a key of a row a sample."""
    if values.ndim != 1 or values.dtype is torch.bool or len(values) < 4 or int(values[0]) != 0:
        return
    rows, counts = int(values[-1]), values.long().diff()
    if int(counts.min()) < 1 or rows == len(counts):
        return
    keys = tuple(k for k, t in tensors.items() if k != key and t.ndim and len(t) == rows)
    if keys and any(t.ndim and len(t) == len(counts) for t in tensors.values()):
        of = torch.arange(len(counts), device=values.device).repeat_interleave(counts)
        yield Owners(keys, of, 1, key)


def pair_ends(pairs: Tensor, rows: int) -> Tensor | None:
    """(2, edge) rows; None where it is no key of pairs of them."""
    if pairs.is_floating_point() or pairs.dtype is torch.bool or pairs.ndim != 2:
        return None
    if 2 not in pairs.shape or pairs.numel() < 2 * FEW:
        return None
    ends = (pairs if len(pairs) == 2 else pairs.T).long()
    return ends if int(ends.min()) >= 0 and int(ends.max()) < rows else None


def counts_up(values: Tensor) -> bool:
    """Whether it is 0, 0, 0, 1, 1, 2, ...: samples of several rows, without a gap."""
    if values.ndim != 1 or values.dtype is torch.bool or int(values[0]) != 0:
        return False
    steps = values[1:] - values[:-1]
    counts = bool(((steps == 0) | (steps == 1)).all())
    return counts and 3 <= int(values[-1]) + 1 < len(values)


def names_all(values: Tensor) -> bool:
    """Whether it is each of 0, 1, 2, ..., in any order and some of them several times."""
    if values.ndim != 1 or values.dtype is torch.bool or int(values.min()) < 0:
        return False
    count = int(values.max()) + 1
    return 3 <= count < len(values) and len(values.unique()) == count


def _by_table(key: str, table: Tensor, tensors: Mapping[str, Tensor]) -> Iterator[Owners]:
    if table.shape[1] not in COLUMNS or len(table) < FEW or table.dtype is torch.bool:
        return
    samples, places = int(table[:, 0].max()) + 1, int(table[:, 1:].max()) + 1
    if samples < 3 or samples == places or int(table.min()) < 0:
        return
    held = [k for k, t in tensors.items() if k != key and t.ndim > 1 and len(t) == samples]
    if any(tensors[k].shape[1] == places for k in held):
        yield Owners(tuple(held), torch.arange(samples, device=table.device), places, key)
