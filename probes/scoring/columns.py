"""A column, one number a sample as `(N, 1)`, that meets a row of them, `(N,)`: N by N."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from probes.batch import leaves
from probes.bus import Bus, Kind, See
from probes.experiment import Experiment, attempted, copied
from probes.nested import tensors_in
from probes.raised import source_here
from probes.replay import Snapshot, replay

LOSSES = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "gaussian_nll_loss")
PAIRS = ("sub", "__sub__", "__rsub__", "rsub", "mul", "__mul__", "__rmul__", "add", "__add__")
QUOTIENTS = ("__radd__", "div", "__truediv__", "__rtruediv__", "true_divide")
CHOICES = ("min", "max", "minimum", "maximum", "where", "fmin", "fmax")
COMPARES = ("eq", "__eq__", "ne", "__ne__", "lt", "gt", "le", "ge", "isclose")
PICKS = ("gather", "take_along_dim")
PRODUCTS = ("matmul", "__matmul__", "__rmatmul__", "mm", "linear", "addmm")
SHAPES = ("view", "reshape", "view_as", "reshape_as")
FEW = 3  # rows of a key, of a batch that cannot be cut
LOOKED = 4  # batches, among which one of other numbers of rows is looked for
CUTS = ("chunk", "split", "tensor_split", "split_with_sizes")


@dataclass(frozen=True, slots=True)
class Column:
    """A call that was given a column and a row. told: one of them is scored, the other is not.

    size: entries of each. column, row: what they come from, keys of the batch and modules. metric:
    in which; None in the loss.
    """

    op: str
    source: str | None
    size: int
    column: tuple[str, ...]
    row: tuple[str, ...]
    told: bool
    metric: str | None = None


@dataclass(frozen=True, slots=True)
class _Origin:
    """What a tensor comes from: keys, and modules with the number of their call.

    axis: why it has a last axis of one entry: `given`, as a linear layer, the batch or a pick gave
    it; `shaped` by a view; `made` there and then, as by `[:, None]`. None without such an axis.
    """

    of: frozenset[tuple[str, int]]
    axis: str | None


@dataclass
class _Columns(TorchFunctionMode):
    """Notes where a column meets a row, and follows what both come from.

    sizes: how many entries they may have. cut: these are samples; of others all pairs may be meant,
    where both have a gradient, as of the two ends of an edge.
    Is an observer and told of calls of the model, too: of what its modules gave, and whether it is
    at work.
    """

    sizes: frozenset[int]
    cut: bool = True
    found: list[Column] = field(default_factory=list)
    depth: int = 0
    metric: str | None = None
    sees: Mapping[Kind, See] = field(init=False)
    bus: Bus | None = None

    def __post_init__(self) -> None:
        TorchFunctionMode.__init__(self)
        self.sees = {Kind.OUTPUT: self.see}
        self._known = WeakTensorKeyDictionary()
        self._calls: Counter[str] = Counter()

    def before(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], listening: bool) -> None:
        self.depth += 1

    def after(self, output: Any) -> None:
        self.depth -= 1

    def see(self, number: int, tensor: Tensor) -> None:
        """What a module gave comes of the module."""
        assert self.bus is not None
        site = self.bus.sites[number].name
        self._calls[site] += 1
        axis = "given" if self._is_column(tensor) else None
        self._known[tensor] = _Origin(frozenset({(site, self._calls[site])}), axis)

    def know(self, key: str, leaf: Any) -> None:
        """A tensor of the batch comes of its key."""
        if isinstance(leaf, Tensor):
            axis = "given" if self._is_column(leaf) else None
            self._known[leaf] = _Origin(frozenset({(key, 0)}), axis)

    def _is_column(self, tensor: Tensor) -> bool:
        return tensor.ndim == 2 and tensor.shape[1] == 1 and len(tensor) in self.sizes

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function's result; what it was given was looked at."""
        name = getattr(func, "__name__", "")
        tensors = list(tensors_in((*args, *(kwargs or {}).values())))
        meets = LOSSES + PAIRS + QUOTIENTS + CHOICES if self.metric is None else COMPARES
        if not self.depth and name in meets:
            self._meet(name, tensors[:3])
        out = func(*args, **(kwargs or {}))
        for each in tensors_in((out,)):
            self._follow(name, args, tensors, each)
        return out

    def _follow(self, name: str, args: Any, given: list[Tensor], out: Tensor) -> None:
        known = [self._known[each] for each in given if each in self._known]
        if known:
            of = frozenset[tuple[str, int]]().union(*(each.of for each in known))
            axis = self._axis(name, args, given) if self._is_column(out) else None
            self._known[out] = _Origin(of, axis)

    def _axis(self, name: str, args: Any, given: list[Tensor]) -> str:
        """How the result came by its axis of one entry."""
        columns = [self._known.get(each) for each in given if self._is_column(each)]
        if columns and name not in PICKS:
            axes = {"made" if each is None or each.axis is None else each.axis for each in columns}
            return next(axis for axis in ("given", "shaped", "kept", "made") if axis in axes)
        if name in SHAPES:
            return "shaped"
        if name in ("unsqueeze", "expand", "__get__") or (
            name == "__getitem__" and _adds_axis(args[1])
        ):
            return "made"
        return "given" if name in (*PICKS, *PRODUCTS, *CUTS, "__getitem__") else "kept"

    def _meet(self, name: str, given: list[Tensor]) -> None:
        column = next((each for each in given if self._is_column(each)), None)
        size = 0 if column is None else len(column)
        row = next((each for each in given if tuple(each.shape) == (size,)), None)
        if column is None or row is None:
            return
        one, two = self._known.get(column), self._known.get(row)
        axis = None if one is None else one.axis
        told = column.requires_grad != row.requires_grad
        told = told and name in LOSSES + PAIRS and (axis not in ("made", "kept") or name in LOSSES)
        alike = column.requires_grad and row.requires_grad
        alike = alike and (not self.cut or _names(one) == _names(two))
        parted = one is not None and two is not None and one.of != two.of
        enough = ("given",) if self.metric is None else ("given", "shaped", "kept")
        if told or (axis in enough and parted and not alike):
            whence = _names(one), _names(two)
            at = name.strip("_"), source_here(), size
            self.found.append(Column(*at, *whence, told, self.metric))


def _names(origin: _Origin | None) -> tuple[str, ...]:
    """The keys and modules alone."""
    return () if origin is None else tuple(sorted({site for site, _ in origin.of}))


def _adds_axis(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return any(part is None for part in parts)


def sizes(experiment: Experiment) -> frozenset[int]:
    """How many samples there are; of a batch that cannot be cut, how many rows its keys have.

    As of nodes, graphs and edges. Two rows are left out, which may be the ends of edges.
    """
    if experiment.size:
        return frozenset({experiment.size} - {1})
    rows = {len(tensor) for tensor in experiment.tensors.values() if tensor.ndim}
    return frozenset(count for count in rows if count >= FEW)


def columns(experiment: Experiment) -> list[Column]:
    """Where the code of the loss and the metrics, around the model, lets a column meet a row.

    In order. Those where one of them has a gradient and the other has none; and those whose column
    came with its axis out of a module, the batch or a pick, and the row out of something else. In
    a metric, where the two are compared; there an axis that was kept will do as well. Of a metric
    that raises, what it did before. Of a batch that cannot be cut, those that are so in another
    batch as well, of other numbers of rows: two things may be as many by chance.
    """
    found = _found(experiment)
    others = islice(experiment.subject.batches, LOOKED) if found and not experiment.size else ()
    for batch in others:
        other = experiment.of_batch(batch)
        if sizes(other) != sizes(experiment):
            again = {(each.op, each.source, each.metric) for each in _found(other)}
            return [each for each in found if (each.op, each.source, each.metric) in again]
    return found


def _found(experiment: Experiment) -> list[Column]:
    subject, mode = experiment.subject, _Columns(sizes(experiment), experiment.size > 0)

    def step() -> Tensor:
        batch = copied(experiment.batch)
        for key, leaf in leaves(batch).items():
            mode.know(key, leaf)
        with attempted("`Subject.loss`"):
            subject.loss(subject.model, batch)
        for mode.metric, metric in subject.metrics.items():
            with suppress(Exception), torch.no_grad():
                metric(subject.model, batch)
        return torch.zeros(())

    with Bus(subject.model, [mode], mode, whole=True) as mode.bus:
        replay(step, subject.model, Snapshot.take(subject.model), under=[mode])
    return mode.found
