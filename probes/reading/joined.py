"""What is joined place by place: readings from the start, and from the end in reversed order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from probes.experiment import Experiment
from probes.nested import tensors_in
from probes.raised import source_here
from probes.reading.alive import alive
from probes.reading.walks import by_place, changed, moved, places, sequences, ways

JOINS = ("cat", "concat", "concatenate", "stack", "add", "__add__", "__radd__", "mul", "__mul__")
MOST = 300  # joins that are kept of a pass


@dataclass(frozen=True, slots=True)
class _Join:
    """op: what joined. line: of the user's code. parts: (sample, place, 1) of each, a digest."""

    op: str
    line: str | None
    parts: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Joined:
    """Two tensors by place are joined, one of which lies in reversed order of `key`'s places.

    output: the one by place that the loss looks at. last: the last place of the key.
    """

    key: str
    op: str
    line: str | None
    output: str
    last: int


class _Joins(TorchFunctionMode):
    """While it is entered, what is joined by sample and place is kept, if it has a gradient."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.found: list[_Join] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function has run as it would have."""
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in JOINS and len(self.found) < MOST and isinstance(out, Tensor):
            parts = [each for each in tensors_in(args) if each.is_floating_point()]
            whole = by_place(out, self.size)
            rows = [by_place(each, self.size) for each in parts]
            fits = [each for each in rows if each is not None]
            alike = whole is not None and all(x.shape[:2] == whole.shape[:2] for x in fits)
            if alike and len(fits) == len(parts) > 1:
                self.found.append(_Join(name, source_here(), tuple(map(_digest, fits))))
        return out


def _digest(rows: Tensor) -> Tensor:
    """(sample, place, 1) a number for what stands there."""
    weights = torch.arange(1, rows.shape[2] + 1, dtype=rows.dtype, device="cpu").cos() + 0.3
    return (rows @ weights)[..., None]


def joined_backwards(experiment: Experiment) -> Iterator[Joined]:
    """At most one a key that an output by place reads.

    With the key at one place after the other changed, either end of what moves of one part walks
    along with the place, and of the other part the other way. Raises ExperimentError.
    """
    output = _by_place_scored(experiment)
    if output is None:
        return
    for key in sequences(experiment, floats=False):
        if key in experiment.targets:
            continue
        found = _of(experiment, key, places(experiment, key))
        if found is not None:
            rows = experiment.tensors[key].shape
            last = rows[1] if rows[0] == experiment.size else rows[0]
            yield Joined(key, found.op, found.line, output, last - 1)
            return


def _by_place_scored(experiment: Experiment) -> str | None:
    """An output by place that the loss looks at in most of its places; None of pooled ones."""
    seen = alive(experiment)
    given = [each for each in seen.given if by_place(each.tensor, experiment.size) is not None]
    grads = seen.of_loss([each.tensor for each in given])
    for each, grad in zip(given, grads, strict=True):
        rows = None if grad is None else by_place(grad, experiment.size)
        if rows is not None and float((rows != 0).any(2).any(0).double().mean()) > 0.5:
            return each.site
    return None


def _of(experiment: Experiment, key: str, tried: Sequence[int]) -> _Join | None:
    row = _fullest(experiment)
    before = _run(experiment, None)
    if not before:
        return None
    after = {s: _run(experiment, (key, s, row)) for s in tried}
    if any(len(each) != len(before) for each in after.values()):
        return None
    for i, join in enumerate(before):
        walks = []
        for k, part in enumerate(join.parts):
            others = {s: each[i].parts for s, each in after.items()}
            if any(len(o) <= k or o[k].shape != part.shape for o in others.values()):
                return None
            size = experiment.size
            walks.append(ways({s: moved(part, o[k], size)[None] for s, o in others.items()}))
        if any({1} in pair and {-1} in pair for pair in combinations(walks, 2)):
            return join
    return None


def _fullest(experiment: Experiment) -> int:
    lengths = experiment.lengths
    return 0 if lengths is None else int(lengths.argmax())


def _run(experiment: Experiment, change: tuple[str, int, int] | None) -> list[_Join]:
    batch = experiment.batch if change is None else changed(experiment, *change)
    mode = _Joins(experiment.size)
    experiment.evaluate(batch, (mode,))
    return mode.found
