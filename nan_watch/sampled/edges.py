"""How near the arguments of logs, roots, divisions and exponentials come to the dtype's edge.

Looked at in a few steps of those that are handed to `watch.step`, while their forward pass runs.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nan_watch.flags import Doubles
from nan_watch.origin.operators import operator
from nan_watch.origin.sources import here, module_names
from nan_watch.sampled.sampling import is_sampled
from probes.operator_mode import OperatorMode

EVERY = 256  # steps: under the mode a step takes two to three times as long
LOOKS = 16  # of each place that are kept at hand

OF_THE_FIRST = frozenset({"log", "log2", "log10", "sqrt", "rsqrt", "reciprocal"})
OF_THE_SECOND = frozenset({"div", "true_divide"})
EXPONENTIALS = frozenset({"exp"})


@dataclass(frozen=True, slots=True)
class Edge:
    """A place in the code that has an edge: `smallest argument of aten.log`, `train.py:12`."""

    what: str
    source: str
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.what} at {self.source}"

    def bits_left(self, value: float) -> float:
        """How often the value may be halved, doubled, or raised by ln 2, before the edge."""
        finfo = torch.finfo(self.dtype)
        if self.what.startswith("largest argument"):
            return max(0.0, (math.log(finfo.max) - value) / math.log(2))
        if self.what.startswith("largest"):
            return max(0.0, math.log2(finfo.max / value)) if value > 0 else math.log2(finfo.max)
        least = finfo.tiny * finfo.eps if self.dtype is torch.float16 else finfo.tiny
        return max(0.0, math.log2(value / least)) if value > 0 else 0.0


class Edges:
    """Looks at the forward pass of the steps that are sampled; `of` tells what it saw.

    Nothing is looked at where something was compiled: under a dispatch mode torch would run it
    uncompiled, and round differently.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._mode: _Looking | None = None
        self._seen: Mapping[Edge, Tensor] = {}
        self._history: dict[Edge, list[tuple[int, float]]] = {}

    @contextmanager
    def looking(self, step: int) -> Iterator[None]:
        """The step runs, and is looked at where it is among those that are sampled."""
        if step == 0 or not is_sampled(step, EVERY) or _compiled(self._model):
            yield
            return
        self._mode = _Looking(module_names(self._model))
        try:
            with self._mode:
                yield
        finally:
            self._mode = None

    def waiting(self) -> list[Tensor]:
        """What is to be read, now that the forward pass is over."""
        if self._mode is None:
            return []
        self._mode.awake, self._seen = False, self._mode.seen
        self._mode.seen = {}
        return list(self._seen.values())

    def take(self, numbers: Doubles, step: int) -> dict[str, float]:
        """Place to bits that are left, from what was read of `waiting`."""
        found = {}
        for edge, value in zip(self._seen, numbers.tolist(), strict=True):
            if math.isfinite(value):
                self._history.setdefault(edge, []).append((step, value))
                del self._history[edge][:-LOOKS]
                found[str(edge)] = edge.bits_left(value)
        self._seen = {}
        return found

    def of(self, source: str | None) -> Mapping[Edge, Sequence[tuple[int, float]]]:
        """Step and value, oldest first, of every place in this line."""
        return {edge: past for edge, past in self._history.items() if edge.source == source}


def _compiled(model: nn.Module) -> bool:
    """Whether torch has compiled anything, or is going to."""
    if any(getattr(module, "_compiled_call_impl", None) for module in model.modules()):
        return True
    dynamo = sys.modules.get("torch._dynamo.utils")
    return dynamo is not None and bool(dynamo.counters["frames"])


class _Looking(OperatorMode):
    """Keeps the extreme argument of every place with an edge, on its device."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self.seen: dict[Edge, Tensor] = {}
        self.awake = True
        self._names = names

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The operator has run; in a forward pass, its argument was looked at before."""
        forward = self.awake and torch._C._current_graph_task_id() == -1
        if forward:
            self._before(operator(func).name, args)
        out = func(*args, **(kwargs or {}))
        if forward and isinstance(out, Tensor) and out.dtype is torch.float16:
            self._note("largest number in float16", out, _largest)
        return out

    def _before(self, name: str, args: Sequence[Any]) -> None:
        bare = name.removeprefix("aten.").removesuffix("_")
        if bare in OF_THE_FIRST:
            self._note(f"smallest argument of aten.{bare}", args[0], _smallest)
        elif bare in OF_THE_SECOND and isinstance(args[1], Tensor):
            self._note(f"smallest divisor of aten.{bare}", args[1], _smallest)
        elif bare in EXPONENTIALS:
            self._note(f"largest argument of aten.{bare}", args[0], torch.amax)

    def _note(self, what: str, tensor: Tensor, extreme: Callable[[Tensor], Tensor]) -> None:
        if not _is_plain(tensor) or (source := here(self._names).source) is None:
            return
        edge, value = Edge(what, source, tensor.dtype), extreme(tensor.detach())
        before = self.seen.get(edge)
        if before is not None:
            pick = torch.minimum if extreme is _smallest else torch.maximum
            value = pick(before, value)
        self.seen[edge] = value


def _is_plain(tensor: Tensor) -> bool:
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.layout is torch.strided
        and tensor.is_floating_point()
        and tensor.numel() > 0
    )


def _smallest(tensor: Tensor) -> Tensor:
    """The smallest number above zero: what is exactly zero is a mask, or too late."""
    size = tensor.abs()
    return torch.where(size > 0, size, math.inf).amin()


def _largest(tensor: Tensor) -> Tensor:
    return tensor.abs().amax()
