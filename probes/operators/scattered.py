"""Rows that are picked by an index and added up by the same one, while its other half is unread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from probes.batch import map_leaves
from probes.compare import NOISES, everywhere
from probes.experiment import Experiment, with_leaf
from probes.finding import ExperimentError
from probes.masking.visible import differ
from probes.raised import source_here
from probes.reading.alive import Alive, alive, gradients
from probes.reading.indexing import Pick
from probes.running import names_of, running

SCATTERS = {"index_add", "index_reduce", "scatter_add", "scatter_reduce"}
INTEGERS = (torch.int64, torch.int32)
FEWEST = 3  # pairs
ASKED = 6  # rows that are asked what they are made of
CALLS = 200  # scatters of a pass


@dataclass(frozen=True, slots=True, eq=False)
class Half:
    """One of two indices that belong together. place: in the key; None where it is all of it."""

    key: str
    place: tuple[int, int] | None
    values: Tensor

    @property
    def words(self) -> str:
        """How it is called in a sentence."""
        if self.place is None:
            return f"`{self.key}`"
        axis, at = self.place
        return f"{'column' if axis else 'row'} {at} of `{self.key}`"

    def put(self, tensor: Tensor, values: Tensor) -> Tensor:
        """The key with other values here."""
        if self.place is None:
            return values
        out = tensor.clone()
        out.select(*self.place).copy_(values)
        return out


@dataclass(frozen=True, slots=True, eq=False)
class _Scatter:
    """What was added up by an index. line: (entry,) the index, along the axis."""

    op: str
    axis: int
    line: Tensor
    out: Tensor
    site: str
    source: str | None


@dataclass(frozen=True, slots=True)
class Returned:
    """read: by which rows are picked and added up. unread: the other. picked: the line that picks.

    bare: nothing else comes with the pairs that is worth being added up.
    """

    read: Half
    unread: Half
    op: str
    site: str
    source: str | None
    picked: str | None
    bare: bool


class _Scatters(TorchFunctionMode):
    """While it is entered, notes what is added up by an index."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.found: list[_Scatter] = []
        self._names = names_of(model)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function has run as it would have."""
        given = kwargs or {}
        out = func(*args, **given)
        name = getattr(func, "__name__", "").strip("_")
        if isinstance(out, Tensor) and args and len(self.found) < CALLS:
            where = _index(name, args, given)
            line = None if where is None else line_of(where[1], where[0])
            if where is not None and line is not None:
                site = running(self._names) or "<loss>"
                self.found.append(_Scatter(name, where[0], line, out, site, source_here()))
        return out


def _index(name: str, args: Sequence[Any], given: dict[str, Any]) -> tuple[int, Tensor] | None:
    """The axis and the index of what adds up; None of other functions."""
    axis: Any
    index: Any
    if name == "index_put":
        accumulates = args[3] if len(args) > 3 else given.get("accumulate", False)
        parts = args[1] if len(args) > 1 else given.get("indices", ())
        axis, index = 0, parts[0] if accumulates and len(parts) == 1 else None
    elif name in SCATTERS or (name == "scatter" and "reduce" in given):
        axis = args[1] if len(args) > 1 else given.get("dim")
        index = args[2] if len(args) > 2 else given.get("index")
    else:
        return None
    if not isinstance(axis, int) or not isinstance(index, Tensor) or index.dtype not in INTEGERS:
        return None
    return axis % max(1, args[0].ndim), index.detach()


def line_of(index: Tensor, axis: int) -> Tensor | None:
    """(entry,) an index of one axis, or of more that says the same along all others."""
    if index.ndim < 2:
        return index.flatten().long()
    lines = index.long().movedim(axis, 0).flatten(1)
    return lines[:, 0] if lines.numel() and bool((lines == lines[:, :1]).all()) else None


def halves(experiment: Experiment) -> Iterator[tuple[Half, Half]]:
    """Either half first: rows or columns of a key with two, and two keys with as many entries."""
    single = list[Half]()
    for key, tensor in experiment.tensors.items():
        if tensor.dtype not in INTEGERS or key in experiment.targets:
            continue
        if tensor.ndim == 1 and len(tensor) >= FEWEST:
            single.append(Half(key, None, tensor))
        if tensor.ndim == 2 and 2 in tensor.shape and max(tensor.shape) >= FEWEST:
            axis = tensor.shape.index(2)
            both = [Half(key, (axis, at), tensor.select(axis, at)) for at in (0, 1)]
            yield from permutations(both, 2)
    for one, two in permutations(single, 2):
        if len(one.values) == len(two.values):
            yield one, two


def scattered_back(experiment: Experiment) -> Iterator[Returned]:
    """At most one for each half that nobody reads. Raises ExperimentError."""
    scatters = _Scatters(experiment.subject.model)
    with scatters:
        seen = alive(experiment, map_leaves(experiment.batch, _learns))
    picks = [each for each in (*seen.picks, *seen.looked_up) if not each.rows]
    lines = [line_of(each.index, each.axis) for each in picks]
    known = [(p, line) for p, line in zip(picks, lines, strict=True) if line is not None]
    if not known or not scatters.found:
        return
    for read, unread in halves(experiment):
        every = [*(line for _, line in known), *(each.line for each in scatters.found)]
        if any(_begins(line, unread.values) for line in every):
            continue
        own = [(p, line) for p, line in known if _begins(line, read.values)]
        found = next(_returned(seen, own, scatters.found), None)
        bare = _is_bare(experiment, read, unread)
        if found is None or (read.place is None and not bare):
            continue
        if _is_read(experiment, read) and not _is_read(experiment, unread):
            pick, scatter = found
            told = (scatter.op, scatter.site, scatter.source, pick.line)
            yield Returned(read, unread, *told, bare)


def _learns(_: str, leaf: Any) -> Any:
    if isinstance(leaf, Tensor) and leaf.is_floating_point():
        return leaf.detach().clone().requires_grad_()
    return leaf


def _begins(line: Tensor, values: Tensor) -> bool:
    """Whether an index is the half, with more after it, such as loops of every node, or none."""
    fits = len(line) >= len(values)
    return fits and torch.equal(line[: len(values)].to(values), values)


def _returned(
    seen: Alive, picks: Sequence[tuple[Pick, Tensor]], scatters: Sequence[_Scatter]
) -> Iterator[tuple[Pick, _Scatter]]:
    """Rows that were picked and came back each to where it was, and to no other place."""
    for scatter in scatters:
        for pick, line in picks:
            same = torch.equal(line, scatter.line)
            asked = same and pick.source.requires_grad and scatter.out.requires_grad
            if asked and _stays(pick, scatter):
                yield pick, scatter


def _stays(pick: Pick, scatter: _Scatter) -> bool:
    """Whether no row of what was added up hangs on another row of what was picked from."""
    rows, felt = scatter.line.unique(), False
    step = max(1, len(rows) // ASKED)
    for row in rows[::step][:ASKED].tolist():
        made = scatter.out.select(scatter.axis, row)
        weights = torch.linspace(0.5, 1.5, made.numel(), device=made.device).to(made.dtype)
        (grad,) = gradients((made.flatten() * weights).sum(), [pick.source])
        if grad is None:
            return False
        moved = grad.to_dense().movedim(pick.axis, 0)[..., None].flatten(1).any(1)
        own, moved[row] = bool(moved[row]), False
        felt |= own
        if bool(moved.any()):
            return False
    return felt


def _is_bare(experiment: Experiment, read: Half, unread: Half) -> bool:
    """Whether the batch says nothing of each pair but the two, and one number such as a weight.

    Not even that of two keys, which need not belong together.
    """
    count, both = len(read.values), {read.key, unread.key}
    weighs = read.place is not None
    return not any(
        count in tensor.shape
        and not (weighs and tensor.numel() == count and tensor.is_floating_point())
        for key, tensor in experiment.tensors.items()
        if key not in both and key not in experiment.targets
    )


def _is_read(experiment: Experiment, half: Half) -> bool:
    """Whether loss or outputs move where its values stand in another order, or half are one."""
    before, tensor = experiment.evaluated, experiment.tensors[half.key]
    alike = half.values.clone()
    alike[: len(alike) // 2] = alike[-1]
    for values in (half.values.roll(1, 0), half.values.flip(0), alike):
        if torch.equal(values, half.values):
            continue
        other = half.put(tensor, values)
        try:
            ran = experiment.evaluate(with_leaf(experiment.batch, half.key, other))
        except ExperimentError:
            return True
        shapes = {name: value.shape for name, value in ran.outputs.items()}
        same = all(shapes.get(name) == v.shape for name, v in before.ran.outputs.items())
        if not same or differ(before.ran, ran, everywhere, NOISES * before.noise):
            return True
    return False
