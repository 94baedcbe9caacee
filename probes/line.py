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
Cut = Callable[[Tensor, tuple[int, ...]], Tensor | None]


def line(
    model: nn.Module,
    found: Comparison,
    look: Look,
    unchanged: Run,
    changed: Run,
    cut: Cut | None = None,
) -> str | None:
    """`file.py:line` of the user's own code; None where that is unclear.

    look: true where values of a shape are to agree. unchanged, changed: the two executions, each
    under what it is given. cut: brings what the changed one gives into a shape of the other, where
    shapes differ; None where it cannot be.
    """
    site = place(found, model).site
    traces: list[_Results] = []
    try:
        for run in (unchanged, changed):
            traces.append(_Results(model, site))
            run(traces[-1])
    except ExperimentError:
        return None
    return _first(traces[0], traces[1], look, site, cut)


@dataclass(frozen=True, slots=True)
class _Result:
    name: str
    value: Tensor
    source: str | None


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
        own = out[0] if isinstance(out, tuple) and out else out
        if type(own) is Tensor and own.is_floating_point() and running(self._names) == self._site:
            self._left -= own.numel() * own.element_size()
            if self._left > 0:
                kept = own.detach().clone()
                self.found.append(_Result(func._schema.name, kept, source_here()))
        return out


def _first(before: _Results, after: _Results, look: Look, site: str, cut: Cut | None) -> str | None:
    """The line of the first operator that gives something else where it is to be the same."""
    for one, two in zip(before.found, after.found, strict=False):
        now, shape = two.value, tuple(one.value.shape)
        if cut is not None and one.name == two.name and now.shape != shape:
            fits = cut(now, shape)
            if fits is None:
                continue
            now = fits
        if one.name != two.name or now.shape != shape:
            return None
        where = look(site, one.value)
        if where is None:
            continue
        where = where.expand(one.value.shape)
        limit = ROUNDING.get(one.value.dtype, 0.0) * scale(one.value, where)
        if gap(one.value, now, where)[0] > limit:
            return one.source
    return None
