"""What is repeated copy after copy, and what it then meets row by row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from probes.experiment import Experiment, with_leaf
from probes.finding import ExperimentError
from probes.raised import source_here
from probes.reading.alive import alive
from probes.reading.indexing import TILES
from probes.subject import Batch
from probes.vary import vary


@dataclass(frozen=True, slots=True, eq=False)
class Meets:
    """Rows that were repeated as a whole, `of`, and those of another tensor that they met."""

    of: Tensor
    rows: Tensor
    op: str
    line: str | None


@dataclass(frozen=True, slots=True)
class Tiled:
    """A number of each group of rows that stand together, dealt out to the rows in turn.

    key: whose rows these are. size: rows of a group, of which there are so many.
    """

    key: str
    groups: int
    size: int
    op: str
    line: str | None


class _Tiles(TorchFunctionMode):
    """While it is entered, what is repeated is followed until it meets as many other rows."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Meets] = []
        self._tiles: list[tuple[Tensor, Tensor]] = []  # as it is now, and what was repeated

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The function's result."""
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        given = [each for each in args if isinstance(each, Tensor) and each.ndim]
        if not isinstance(out, Tensor) or not given:
            return out
        if name in TILES and given[0].ndim == out.ndim and 1 < len(given[0]) < len(out):
            self._tiles.append((out, given[0].detach().clone()))
        else:
            self._follow(name, given, out)
        return out

    def _follow(self, name: str, given: list[Tensor], out: Tensor) -> None:
        for tile, of in list(self._tiles):
            if not any(each is tile for each in given):
                continue
            others = [each for each in given if each is not tile and len(each) == len(tile)]
            if others:
                self.found.append(Meets(of, others[0].detach().clone(), name, source_here()))
            elif out.ndim and len(out) == len(tile):
                self._tiles.append((out, of))


def tiled(experiment: Experiment) -> Tiled | None:
    """The first numbers of groups that meet the rows of other groups."""
    if "tiled" not in experiment.memo:
        wanted = {(n, rows) for n, rows in alive(experiment).tiled if 1 < n < rows and not rows % n}
        experiment.memo["tiled"] = next(_all(experiment, wanted), None) if wanted else None
    found: Tiled | None = experiment.memo["tiled"]
    return found


def _all(experiment: Experiment, wanted: set[tuple[int, int]]) -> Iterator[Tiled]:
    before = _met(experiment, experiment.batch)
    for (key, tensor), (n, rows) in product(experiment.tensors.items(), wanted):
        if not tensor.ndim or len(tensor) != rows:
            continue
        size = rows // n
        after = _met_by_others(experiment, key, size)
        for one, two in zip(before, after, strict=True) if len(after) == len(before) else ():
            if len(one.of) == n and len(one.rows) == rows and _is_dealt(one, two, size):
                yield Tiled(key, n, size, one.op, one.line)


def _met_by_others(experiment: Experiment, key: str, size: int) -> list[Meets]:
    """What meets with other content in the second group of so many rows; nothing if it raises."""
    tensor = experiment.tensors[key]
    block = torch.zeros_like(tensor, dtype=torch.bool)
    block[size : 2 * size] = True
    other = vary(tensor, block)
    if other is None:
        return []
    try:
        return _met(experiment, with_leaf(experiment.batch, key, other))
    except ExperimentError:
        return []


def _met(experiment: Experiment, batch: Batch) -> list[Meets]:
    mode = _Tiles()
    experiment.evaluate(batch, under=[mode])
    return mode.found


def _is_dealt(one: Meets, two: Meets, size: int) -> bool:
    """Whether the second group's rows, changed, moved its number alone, and met other numbers."""
    if one.of.shape != two.of.shape or one.rows.shape != two.rows.shape:
        return False
    numbers, rows = _moved(one.of, two.of), _moved(one.rows, two.rows)
    return numbers == [1] and bool(rows) and {*rows} <= {*range(size, 2 * size)}


def _moved(before: Tensor, after: Tensor) -> list[int]:
    apart = (before != after).flatten(1).any(1) if before.ndim > 1 else before != after
    return [int(i) for i in apart.nonzero().flatten()]
