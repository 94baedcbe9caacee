"""At which line of a module's code two executions part: its first operator whose result differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from probes.compare import Comparison, Look, gap, scale
from probes.execution import ROUNDING
from probes.finding import ExperimentError
from probes.place import CODE, place
from probes.raised import source_here
from probes.running import names_of, running

BUDGET = 2**28  # bytes of results that are kept
Run = Callable[[AbstractContextManager[Any]], object]


def line(
    model: nn.Module, found: Comparison, look: Look, unchanged: Run, changed: Run
) -> str | None:
    """`file.py:line` of the user's own code; None where it is not in a module's code, or unclear.

    look: true where values of a shape are to agree. unchanged, changed: the two executions, each
    under what it is given.
    """
    site = place(found, model).site
    if site == CODE or found.start is None:
        return None
    traces: list[_Results] = []
    try:
        for run in (unchanged, changed):
            traces.append(_Results(model, site))
            run(traces[-1])
    except ExperimentError:
        return None
    return _first(traces[0], traces[1], look, site)


@dataclass(frozen=True, slots=True)
class _Result:
    name: str
    value: Tensor
    source: str | None


class _Results(TorchDispatchMode):
    """While it is entered, what operators give in one module's own code is in `found`."""

    def __init__(self, model: nn.Module, site: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.found: list[_Result] = []
        self._names = names_of(model)
        self._site = site
        self._left = BUDGET

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The operator has run as it would have."""
        out = func(*args, **(kwargs or {}))
        if type(out) is Tensor and out.is_floating_point() and running(self._names) == self._site:
            self._left -= out.numel() * out.element_size()
            if self._left > 0:
                kept = out.detach().clone()
                self.found.append(_Result(func._schema.name, kept, source_here()))
        return out


def _first(before: _Results, after: _Results, look: Look, site: str) -> str | None:
    """The line of the first operator that gives something else where it is to be the same."""
    for one, two in zip(before.found, after.found, strict=False):
        if one.name != two.name or one.value.shape != two.value.shape:
            return None
        where = look(site, one.value)
        if where is None:
            continue
        where = where.expand(one.value.shape)
        limit = ROUNDING.get(one.value.dtype, 0.0) * scale(one.value, where)
        if gap(one.value, two.value, where)[0] > limit:
            return one.source
    return None
