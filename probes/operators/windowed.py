"""Windows of places whose results come back to other places than the windows were made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from probes.ancestry import nodes_behind
from probes.experiment import LOSS, Experiment
from probes.finding import ExperimentError
from probes.raised import source_here
from probes.reading.alive import alive, gradients
from probes.reading.indexing import VIEWS
from probes.running import names_of, running

ADDS = ("add", "iadd", "radd")
PROBED = (0.03, 0.11, 0.2, 0.28, 0.37, 0.45, 0.52, 0.61, 0.7, 0.79, 0.88, 0.96)  # of all places
CALLS = 2  # sums of one shape at one line
MOST = 40  # sums that are looked at
PLACES = 4096  # of which all are asked
FEWEST = 3  # places of a window
WRONG = 0.25  # of all places that read a window without themselves
SMALL = 1e-7  # of the largest gradient: less is not read
FULL = 0.9  # of the width of a place that is read: else that axis is not its width

Places = frozenset[int]


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """A change of shape, with its graph."""

    op: str
    before: tuple[int, ...]
    out: Tensor
    site: str
    source: str | None


@dataclass(frozen=True, slots=True)
class Misplaced:
    """A sum of a tensor and of windows of it that lie elsewhere.

    axes: lengths of the axes of places. place: the first that is not in the window that it reads.
    reads: the first and the last place of that, by axis. size: of a window. share: of all places
    that are not in what they read. comes_back: it is the way back that is laid out otherwise, and
    not the way in.
    """

    site: str
    op: str
    source: str | None
    added: str | None
    axes: tuple[int, ...]
    place: tuple[int, ...]
    reads: tuple[tuple[int, int], ...]
    size: int
    share: float
    comes_back: bool


class Windowed(TorchFunctionMode):
    """While it is entered, `found` lists sums of a tensor and of misplaced windows of it."""

    def __init__(self, model: nn.Module, samples: int) -> None:
        super().__init__()
        self.found: list[Misplaced] = []
        self._names, self._samples = names_of(model), samples
        self._views: list[_View] = []
        self._asked: dict[tuple[Any, ...], int] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The function's result; sums were looked at before, since they may write in place."""
        name = getattr(func, "__name__", "").strip("_")
        if name in ADDS and len(args) > 1:
            self._add(args[0], args[1])
        out = func(*args, **(kwargs or {}))
        if name in (*VIEWS, "flatten") and isinstance(out, Tensor) and out.requires_grad:
            before = tuple(args[0].shape)
            if before != tuple(out.shape):
                site = running(self._names) or LOSS
                self._views.append(_View(name, before, out, site, source_here()))
        return out

    def _add(self, one: Any, two: Any) -> None:
        if not (isinstance(one, Tensor) and isinstance(two, Tensor) and self._views):
            return
        if one.shape != two.shape or one.ndim < 3 or len(one) != self._samples:
            return
        if not (one.requires_grad and two.requires_grad):
            return
        line = source_here()
        known = (line, one.shape)
        self._asked[known] = self._asked.get(known, 0) + 1
        if self._asked[known] > CALLS or sum(self._asked.values()) > MOST:
            return
        for of, out in ((one, two), (two, one)):
            for axis in (-1, 1):
                found = _windows(of, out, axis)
                if found is not None:
                    self.found.append(self._told(of, out, line, *found))
                    return

    def _told(
        self, of: Tensor, out: Tensor, line: str | None, axes: tuple[int, ...], read: list[Places]
    ) -> Misplaced:
        wrong = [at for at, each in enumerate(read) if at not in each]
        window = read[wrong[0]]
        comes_back = not _is_run(window)
        view = self._view(of, out, comes_back)
        corners = [_at(each, axes) for each in window]
        return Misplaced(
            site=view.site if view else LOSS,
            op=f"aten.{view.op}" if view else "aten.add",
            source=view.source if view else line,
            added=line,
            axes=axes,
            place=_at(wrong[0], axes),
            reads=tuple((min(each), max(each)) for each in zip(*corners, strict=True)),
            size=len(window),
            share=len(wrong) / len(read),
            comes_back=comes_back,
        )

    def _view(self, of: Tensor, out: Tensor, comes_back: bool) -> _View | None:
        """The one on the way that joins windows to all places, or that cuts these into windows."""
        before = set(nodes_behind(of))
        way = set(nodes_behind(out)) - before
        views = [each for each in self._views if each.out.grad_fn in way]
        if not views:
            return None
        rows = [each.before[0] for each in views]
        if not comes_back:
            cut = (each for each in views if len(each.out) != self._samples)
            return next(cut, views[0])
        apart = [i for i, count in enumerate(rows) if count != self._samples]
        if not apart:
            return views[-1]
        back = views[apart[-1] :]
        joins = (each for each in back if len(each.before) > each.out.ndim)
        return next(joins, back[0])


def misplaced(experiment: Experiment) -> list[Misplaced]:
    """What the loss adds to its own source, in windows that lie elsewhere."""
    mode = Windowed(experiment.subject.model, experiment.size)
    if alive(experiment).views:
        experiment.evaluate(experiment.batch, under=[mode, torch.enable_grad()])
    return mode.found


def _windows(of: Tensor, out: Tensor, axis: int) -> tuple[tuple[int, ...], list[Places]] | None:
    """The axes of places, and what each of them reads, where it is a window laid out otherwise."""
    axes = tuple(n for i, n in enumerate(of.shape[1:], 1) if i != axis % of.ndim)
    count = prod(axes)
    if count < 2 * FEWEST or of.shape[axis] < FEWEST:
        return None
    probed = sorted({int(part * count) for part in PROBED})
    few = list(_reads(of, out, axis, probed))
    sizes = {len(each) for each in few}
    if len(few) < len(probed) or len(sizes) != 1:
        return None
    if count > PLACES or all(at in each for at, each in zip(probed, few, strict=True)):
        return None
    read = list(_reads(of, out, axis, range(count)))
    return (axes, read) if len(read) == count and _is_laid_out_anew(read) else None


def _is_laid_out_anew(read: Sequence[Places]) -> bool:
    """Whether windows part all places, and come out at as many, where one of both is a run."""
    came: dict[Places, set[int]] = {}
    for at, each in enumerate(read):
        came.setdefault(each, set()).add(at)
    size = len(read[0])
    equal = all(len(window) == len(out) == size for window, out in came.items())
    apart = len(frozenset[int]().union(*came)) == len(read) == size * len(came)
    if not (equal and apart and len(came) > 1):
        return False
    moved = [(_is_run(window), _is_run(out)) for window, out in came.items() if window != out]
    wrong = sum(at not in each for at, each in enumerate(read))
    return len(set(moved)) == 1 and moved[0][0] != moved[0][1] and wrong >= WRONG * len(read)


def _is_run(places: Places | set[int]) -> bool:
    """Whether they follow one another in the order in which they lie in memory."""
    return max(places) - min(places) == len(places) - 1


def _reads(of: Tensor, out: Tensor, axis: int, places: Sequence[int] | range) -> Iterator[Places]:
    """What each place of the first sample reads; ends where it is no set of whole places."""
    flat = out.movedim(axis, -1)[0].flatten(0, -2)
    for at in places:
        found = _read(of, flat[at], axis)
        if found is None:
            return
        yield found


def _read(of: Tensor, made: Tensor, axis: int) -> Places | None:
    """The places that one number there reads; None where they are few or all, or not whole."""
    for channel in (0, len(made) // 2, len(made) - 1):
        try:
            grad = gradients(made[channel], [of])[0]
        except ExperimentError:
            return None
        if grad is None:
            return None
        size = grad.abs()
        if not bool(size.any()):
            continue
        moved = (size > SMALL * size.max()).movedim(axis, -1)
        own = moved[0].flatten(0, -2)
        whole = own.any(1)
        count = int(whole.sum())
        fits = FEWEST <= count <= len(whole) // 2 and not bool(moved[1:].any())
        if not fits or float(own[whole].float().mean()) < FULL:
            return None
        return frozenset(whole.nonzero().flatten().tolist())
    return None


def _at(place: int, axes: Sequence[int]) -> tuple[int, ...]:
    found: list[int] = []
    for length in reversed(axes):
        found.insert(0, place % length)
        place //= length
    return tuple(found)
