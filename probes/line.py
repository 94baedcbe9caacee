"""At which line of a module's code two executions part: its first operator whose result differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from probes.compare import Comparison, Look, gap, scale
from probes.execution import ROUNDING
from probes.finding import ExperimentError
from probes.modules import every_module
from probes.nested import tensors_in
from probes.place import CODE, place
from probes.raised import source_here
from probes.running import names_of, running

TORCH = "torch.nn."
BUDGET = 2**28  # bytes of results that are kept
Run = Callable[[AbstractContextManager[Any]], object]
Cut = Callable[[Tensor, tuple[int, ...]], Tensor | None]


@dataclass(frozen=True, slots=True)
class Parting:
    """The first operator whose result differs, `aten.mean`, and the user's line that calls it.

    op: None of a module of torch's, which hands on what its kernels gave. before, after: operators
    of the same code around it, in their order.
    """

    op: str | None
    source: str | None
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


def line(
    model: nn.Module,
    found: Comparison,
    look: Look,
    unchanged: Run,
    changed: Run,
    cut: Cut | None = None,
) -> str | None:
    """`file.py:line` of the user's own code; None where that is unclear.

    As `parting` has it.
    """
    parted = parting(model, found, look, unchanged, changed, cut)
    return None if parted is None else parted.source


def parting(
    model: nn.Module,
    found: Comparison,
    look: Look,
    unchanged: Run,
    changed: Run,
    cut: Cut | None = None,
) -> Parting | None:
    """Where the two part; None where that is unclear.

    look: true where values of a shape are to agree. unchanged, changed: the two executions, each
    under what it is given. cut: makes a result of the second one as large as the first one's; where
    it cannot, the result is passed over.
    """
    site = place(found, model).site
    traces: list[_Results] = []
    try:
        for run in (unchanged, changed):
            traces.append(_Results(model, site))
            run(traces[-1])
    except ExperimentError:
        return None
    return _first(traces[0], traces[1], look, site, cut) or _call(model, site, traces[0])


def _call(model: nn.Module, site: str, trace: _Results) -> Parting | None:
    """The line that calls a module of torch's own, in which no operator of itself differs."""
    module = dict(every_module(model)).get(site)
    if not trace.found or not type(module).__module__.startswith(TORCH):
        return None
    return Parting(None, trace.found[0].source)


@dataclass(frozen=True, slots=True)
class _Result:
    """alone: whether the operator gives nothing besides, as packing does, by what samples lack."""

    name: str
    value: Tensor
    source: str | None
    alone: bool


class _Results(TorchDispatchMode):
    """While it is entered, what operators give in one module's own code is in `found`.

    Or in the code around the model; of an operator that gives several results, the first.
    """

    def __init__(self, model: nn.Module, site: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.found: list[_Result] = []
        self._names = names_of(model)
        self._site = None if site == CODE else site
        self._left = BUDGET

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The operator has run as it would have."""
        out = func(*args, **(kwargs or {}))
        first = next(tensors_in(out), None)  # as of a norm, which gives its statistics besides
        if type(first) is Tensor and self._is_of_interest(first):
            self._left -= first.numel() * first.element_size()
            if self._left > 0:
                kept = first.detach().clone()
                self.found.append(_Result(func._schema.name, kept, source_here(), first is out))
        return out

    def _is_of_interest(self, result: Tensor) -> bool:
        return result.is_floating_point() and running(self._names) == self._site


def _first(
    before: _Results, after: _Results, look: Look, site: str, cut: Cut | None
) -> Parting | None:
    """The first operator that gives something else where it is to be the same."""
    names = tuple(each.name.replace("::", ".") for each in before.found)
    for at, (one, two) in enumerate(zip(before.found, after.found, strict=False)):
        value = _fitted(two.value, one.value.shape, cut)
        if one.name != two.name or (value is None and one.alone and cut is None):
            return None
        where = None if value is None else look(site, one.value)
        if value is None or where is None:
            continue
        where = where.expand(one.value.shape)
        limit = ROUNDING.get(one.value.dtype, 0.0) * scale(one.value, where)
        if gap(one.value, value, where)[0] > limit:
            return Parting(names[at], one.source, names[:at], names[at + 1 :])
    return None


def _fitted(value: Tensor, shape: torch.Size, cut: Cut | None) -> Tensor | None:
    """It in that shape; None where it has another and cannot be cut to it."""
    if value.shape == shape or cut is None:
        return value if value.shape == shape else None
    fits = cut(value, tuple(shape))
    return fits if fits is not None and fits.shape == shape else None
