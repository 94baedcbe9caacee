"""Rows of which each sample has several: whether each is laid out for the sample that it is of."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from probes.batch import take
from probes.compare import NOISES
from probes.experiment import LOSS, Experiment
from probes.finding import ExperimentError
from probes.raised import source_here
from probes.reading.alive import alive
from probes.reading.indexing import PARTS, VIEWS
from probes.scoring.positives import other_sample

JOINS = ("cat", "concat", "concatenate", "stack")
ROUNDING = 1e-5  # of the loss: less is no other value


@dataclass(frozen=True, slots=True, eq=False)
class Laid:
    """Rows, `times` of each sample, laid out by samples.

    by_sample: sample i is given the rows from i * times on, else every row i + j * samples.
    met: whether what came of several parts met, row by row; always so where axes were formed.
    """

    op: str
    line: str | None
    times: int
    by_sample: bool
    rows: Tensor
    shape: tuple[int, ...]
    met: bool = True


@dataclass(frozen=True, slots=True)
class Regrouped:
    """Rows that are laid out for other samples than they are of. samples: of the first given."""

    op: str
    line: str | None
    times: int
    by_sample: bool
    samples: tuple[int, ...]
    loss: float
    mended: float


class _Layouts(TorchFunctionMode):
    """While it is entered, notes how rows are laid out by sample, and puts right those in mend."""

    def __init__(self, n: int, mend: Collection[int] = ()) -> None:
        super().__init__()
        self.n, self.mend = n, mend
        self.found: list[Laid] = []
        self.met: set[int] = set()
        self.loss: Tensor | None = None
        self._parts: dict[int, tuple[Tensor, frozenset[tuple[int, int]]]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The function's result, of rows in another order where they are to be put right."""
        out, given = func(*args, **(kwargs or {})), args[0] if args else None
        name = getattr(func, "__name__", "")
        if isinstance(given, Tensor) and (name in VIEWS or name in PARTS):
            laid = self._laid(name, given, out)
            if laid is not None:
                if len(self.found) in self.mend:
                    out = func(_in_order(given, laid, self.n), *args[1:], **(kwargs or {}))
                if name in PARTS:
                    self._keep_parts(out, len(self.found))
                self.found.append(laid)
                return out
        if name not in JOINS:
            self._follow(args, kwargs or {}, out)
        return out

    def _laid(self, name: str, given: Tensor, out: Any) -> Laid | None:
        times = len(given) // self.n if given.ndim else 0
        if times < 2 or times == self.n or len(given) != times * self.n:
            return None
        shapes = [tuple(each.shape) for each in (out if isinstance(out, (tuple, list)) else [out])]
        if name in PARTS:
            fits = [(False, len(shapes) == times and {each[0] for each in shapes} == {self.n})]
        else:
            fits = [(True, shapes[0][:1] == (self.n,)), (False, shapes[0][:2] == (times, self.n))]
        by_sample = next((by_sample for by_sample, fit in fits if fit), None)
        if by_sample is None:
            return None
        rows = given.detach().clone()
        return Laid(name, source_here(), times, by_sample, rows, shapes[0], name not in PARTS)

    def _keep_parts(self, parts: Any, number: int) -> None:
        for j, part in enumerate(parts):
            self._parts[id(part)] = part, frozenset({(number, j)})

    def _follow(self, args: Any, kwargs: Mapping[str, Any], out: Any) -> None:
        """What is computed from parts is of them; what meets another part is noted."""
        if not self._parts or not isinstance(out, Tensor):
            return
        given = _tensors([args, *kwargs.values()])
        known = [self._parts[id(each)][1] for each in given if id(each) in self._parts]
        if not known:
            return
        every = frozenset[tuple[int, int]]().union(*known)
        rows = [{j for _, j in each} for each in known]
        if any(one != two for one in rows for two in rows):
            self.met |= {number for number, _ in every}
        if out.ndim and len(out) == self.n:
            self._parts[id(out)] = out, every


def regrouped(experiment: Experiment) -> Regrouped | None:
    """The first rows that are laid out for samples that they are not of, if the loss hangs on it.

    What each row is of is told by changing two samples, one after the other: all rows of each must
    move and no other. Rows that are mixed by chance, rolled or sorted are none. The loss must be
    another one where all such rows are laid out in their own order, and the axis must be that of
    samples: it shrinks with the batch.
    """
    n = experiment.size
    if n < 3 or not _is_asked(experiment):
        return None
    before = _layouts(experiment, experiment.batch)
    if not before.found:
        return None
    changed = [_layouts(experiment, other_sample(experiment, i)).found for i in (1, n - 1)]
    if any(len(each) != len(before.found) for each in changed):
        return None
    wrong = [
        number
        for number, laid in enumerate(before.found)
        if _is_of_others(laid, [each[number] for each in changed], n)
    ]
    told = [i for i in wrong if before.found[i].met or i in before.met]
    if not told or not _shrinks(experiment, before.found, told[0]):
        return None
    return _if_it_counts(experiment, before.found[told[0]], wrong)


def _is_asked(experiment: Experiment) -> bool:
    """Whether any rows, several a sample, are given a shape or cut into parts at all."""
    n, seen = experiment.size, alive(experiment)
    rows = {each.before[0] for each in (*seen.views, *seen.parted) if each.before}
    return any(count > n and not count % n for count in rows)


def _layouts(experiment: Experiment, batch: Any, mend: Collection[int] = ()) -> _Layouts:
    mode = _Layouts(experiment.size, mend)
    mode.loss = experiment.evaluate(batch, under=[mode]).outputs.get(LOSS)
    return mode


def _is_of_others(laid: Laid, changed: list[Laid], n: int) -> bool:
    """Whether the rows of two samples stand where those of others are taken from."""
    for sample, other in zip((1, n - 1), changed, strict=True):
        if other.rows.shape != laid.rows.shape:
            return False
        moved = (other.rows != laid.rows).reshape(len(laid.rows), -1).any(1)
        first, step = (sample, n) if laid.by_sample else (sample * laid.times, 1)
        own = [first + step * j for j in range(laid.times)]
        if moved.nonzero().flatten().tolist() != own:
            return False
    return True


def _in_order(rows: Tensor, laid: Laid, n: int) -> Tensor:
    """The rows as they would have to stand for what lays them out."""
    shape = (laid.times, n) if laid.by_sample else (n, laid.times)
    return rows.reshape(*shape, *rows.shape[1:]).transpose(0, 1).reshape(rows.shape)


def _shrinks(experiment: Experiment, found: list[Laid], number: int) -> bool:
    fewer = take(experiment.batch, range(experiment.size - 1), experiment.layout)
    mode = _Layouts(experiment.size - 1)
    try:
        experiment.evaluate(fewer, under=[mode])
    except ExperimentError:
        return False
    return _kind(found[number]) in map(_kind, mode.found)


def _kind(laid: Laid) -> tuple[str, str | None, int, bool]:
    return laid.op, laid.line, laid.times, laid.by_sample


def _if_it_counts(experiment: Experiment, laid: Laid, wrong: list[int]) -> Regrouped | None:
    n, loss = experiment.size, experiment.evaluated.ran.outputs.get(LOSS)
    mended = _layouts(experiment, experiment.batch, wrong).loss
    if loss is None or mended is None:
        return None
    apart = abs(float(mended) - float(loss))
    if not apart > max(NOISES * experiment.evaluated.noise, ROUNDING * abs(float(loss))):
        return None
    given = [j % n if laid.by_sample else j * n // laid.times for j in range(laid.times)]
    return Regrouped(
        laid.op, laid.line, laid.times, laid.by_sample, tuple(given), float(loss), float(mended)
    )


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors(each)
