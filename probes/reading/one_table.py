"""Columns of ids that ask one table for the same rows, though it has rows for each of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from probes.batch import leaves
from probes.experiment import Experiment
from probes.reading.alive import alive
from probes.reading.own_offsets import Column, Moved, ends
from probes.reading.rows import looked

FEWEST = 3  # sizes of columns, whose sum is no chance
FULL = 0.8  # of the ids below the highest that must occur
SPARE = 3.0  # times the rows that are needed, at most, in a table made for them
BATCHES = 3  # in which all ids of a column ask for the last row


@dataclass(frozen=True, slots=True)
class Crowd:
    """Columns that are looked up in one table as they are.

    sizes: of each, one more than its highest id. held: what the model has that says how
    many rows are each's, if anything. highest: row that is asked for.
    """

    table: Moved
    sizes: tuple[int, ...]
    held: str | None
    highest: int


def crowd(experiment: Experiment, table: Moved) -> Crowd | None:
    """The columns of a table that is made for all of them one after the other, and never moved.

    So it is where the model holds how many rows are each's, or the rows at which they begin, or
    where it has just as many rows as they have ids together. None where another than these
    look-ups reads the table.
    """
    columns = table.columns
    apart = len({(each.key, each.entry) for each in columns}) == len(columns) > 1
    if not apart or not table.alone or any(each.offset for each in columns):
        return None
    ids = _ids(experiment, columns)
    if ids is None or not all(len(each) > 1 and int(each[0]) >= 0 for each in ids):
        return None
    sizes = tuple(int(each[-1]) + 1 for each in ids)
    held = _held(experiment.subject.model, sizes, table.rows)
    full = all(len(each) >= FULL * size for each, size in zip(ids, sizes, strict=True))
    fits = full and len({*sizes}) >= FEWEST and 0 <= table.rows - sum(sizes) <= 1
    if held is None and not fits:
        return None
    if _is_read_otherwise(experiment, table, max(sizes)):
        return None
    return Crowd(table, sizes, held, max(sizes) - 1)


def at_the_end(experiment: Experiment, table: Moved) -> Sequence[Column]:
    """The columns of a table all of whose ids, in several whole batches, ask for its last row."""
    weight = dict(experiment.subject.model.named_parameters()).get(table.name)
    left = list(table.ends)
    for batch in islice(experiment.subject.batches, BATCHES) if left and weight is not None else ():
        tensors = {path: leaf for path, leaf in leaves(batch).items() if isinstance(leaf, Tensor)}
        seen = alive(experiment, batch)
        picks = [one for one in (*seen.looked_up, *seen.picks) if one.source is weight]
        again = ends(tensors, picks[0].index, table.rows) if len(picks) == 1 else ()
        left = [each for each in left if each in again]
    return left


def _ids(experiment: Experiment, columns: Sequence[Column]) -> list[Tensor] | None:
    """Those of each column in the first batches; None of rows whose lengths differ, or padded."""
    hidden = {each.key for each in experiment.masks if each.keep.ndim > 1}
    if any(each.key in hidden for each in columns):
        return None
    found: list[list[Tensor]] = [[] for _ in columns]
    widths: dict[str, set[int]] = {}
    for batch in looked(experiment):
        for column, ids in zip(columns, found, strict=True):
            if column.key not in batch:
                continue
            values = batch[column.key]
            if column.entry is not None:
                widths.setdefault(column.key, set()).add(values.shape[-1])
                if len(widths[column.key]) > 1 or column.entry >= values.shape[-1]:
                    return None
            ids.append(column.of(batch).unique())
    return [torch.cat(ids).unique() for ids in found] if all(found) else None


def _held(model: nn.Module, sizes: Sequence[int], rows: int) -> str | None:
    """The name of integers in the model by which columns so wide fill the table just to its end.

    They are the numbers of ids of each, or the rows at which each begins or ends.
    """
    for name, numbers in _integers(model):
        for rooms in _rooms(numbers, rows):
            fits = len(rooms) == len(sizes) and sum(rooms) == rows <= SPARE * sum(sizes)
            if fits and all(size <= room for size, room in zip(sizes, rooms, strict=True)):
                return name
    return None


def _rooms(numbers: Sequence[int], rows: int) -> Iterator[Sequence[int]]:
    yield numbers
    if numbers[0]:
        numbers = [0, *numbers]
    yield [b - a for a, b in pairwise([*numbers, *([rows] if numbers[-1] != rows else [])])]


def _integers(model: nn.Module) -> Iterator[tuple[str, list[int]]]:
    """Buffers, and what modules that are not torch's own hold beside them."""
    for site, module in model.named_modules():
        own = {} if type(module).__module__.startswith("torch.") else vars(module)
        for name, value in (*module.named_buffers(recurse=False), *own.items()):
            numbers = _listed(value)
            if numbers is not None:
                yield f"{site}.{name}".lstrip("."), numbers


def _listed(value: Any) -> list[int] | None:
    if isinstance(value, (Tensor, np.ndarray)):
        flat = torch.as_tensor(value).detach().flatten()
        whole = not flat.is_floating_point() and not flat.is_complex() and flat.dtype != torch.bool
        return flat.tolist() if whole and 1 < len(flat) <= 512 else None
    if isinstance(value, (list, tuple)) and all(type(each) is int for each in value):
        return list(value) if len(value) > 1 else None
    return None


def _is_read_otherwise(experiment: Experiment, table: Moved, reach: int) -> bool:
    """Whether the loss moves with a row that no column asks for, as where scores are made of it."""
    model = experiment.subject.model
    held = dict(model.named_parameters())
    weight = held.get(table.name)
    if weight is None or not weight.requires_grad:
        return False
    (grad,) = alive(experiment).of_loss([weight])
    return grad is not None and bool(grad.to_dense()[reach:].any())
