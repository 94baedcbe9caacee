"""One execution of a call: its outputs, and every tensor that its modules showed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from probes.bus import Bus, Kind, See
from probes.modules import every_module
from probes.replay import Snapshot, replay

BUDGET = 2**30  # bytes of values that a run keeps; sites beyond it are not compared
ROUNDING = {
    torch.float64: 1e-9,
    torch.float32: 2e-5,
    torch.float16: 2e-2,
    torch.bfloat16: 5e-2,
}
"""What rounding alone may do, as a share of the largest value, by the coarsest dtype in a run."""


@dataclass(frozen=True, slots=True)
class Event:
    """A tensor that a run showed: what it was to its site, in which of the site's calls.

    site: with its part, such as `cell[0]`; module: without. value: None where the budget was spent.
    """

    site: str
    module: str
    kind: Kind
    call: int
    value: Tensor | None


@dataclass(frozen=True)
class Ran:
    """What a call gave: outputs by name, and all that was shown on the way, in forward order.

    rounding: what rounding may do in the coarsest number format that was seen. look: gives the
    events, by another run where the first one kept none.
    """

    outputs: Mapping[str, Tensor]
    rounding: float
    look: Callable[[], tuple[Event, ...]] = field(repr=False)

    @cached_property
    def events(self) -> tuple[Event, ...]:
        """Every tensor that the run showed."""
        return self.look()


class _Copies:
    """Keeps a copy of every tensor that it is shown, up to a budget.

    root: the module whose own tensors alone are to be kept; None for all.
    """

    def __init__(self, budget: int, root: str | None) -> None:
        self.sees: Mapping[Kind, See] = {Kind.INPUT: self.see, Kind.OUTPUT: self.see}
        self.kept: list[tuple[int, Tensor | None]] = []
        self.formats: set[torch.dtype] = set()
        self.bus: Bus | None = None
        self._root = root
        self._left = budget
        self._last: tuple[Tensor, int, Tensor | None] | None = None  # one's output, other's input

    def see(self, number: int, tensor: Tensor) -> None:
        self.formats.add(tensor.dtype)
        if self._root is not None and not self._is_root(number):
            return
        last = self._last
        if last is not None and last[0] is tensor and last[1] == tensor._version:
            self.kept.append((number, last[2]))
            return
        copy = self._copy(tensor.detach())
        self.kept.append((number, copy))
        self._last = None if tensor.is_inference() else (tensor, tensor._version, copy)

    def _is_root(self, number: int) -> bool:
        assert self.bus is not None
        name = self.bus.sites[number].name
        return name == self._root or name.startswith((f"{self._root}[", f"{self._root}."))

    def _copy(self, tensor: Tensor) -> Tensor | None:
        self._left -= tensor.numel() * tensor.element_size()
        if self._left < 0 or tensor.layout is not torch.strided or tensor.is_nested:
            return None
        return tensor.clone()


def run(
    call: Callable[[], Any],
    model: nn.Module,
    snapshot: Snapshot,
    *,
    under: Sequence[AbstractContextManager[Any]] = (),
    budget: int = BUDGET,
    own: bool = False,
) -> Ran:
    """The call has run from the snapshot and was looked at; nothing outside has changed.

    Outputs are the call's result: a tensor (`output`), or the tensors of a mapping, tuple or
    dataclass by name. The call need not go through the model's own forward; own: what the
    model's last forward pass gave counts among the outputs.
    """
    ran = _run(call, model, snapshot, under, budget, own, every=True)
    _ = ran.events
    return ran


def glance(
    call: Callable[[], Any],
    model: nn.Module,
    snapshot: Snapshot,
    *,
    under: Sequence[AbstractContextManager[Any]] = (),
    own: bool = False,
    rounding: float | None = None,
) -> Ran:
    """As `run`, but the events are had by a second run, if anybody asks for them.

    rounding: what an earlier run of the kind came to, so that no module need be looked at for it.
    """
    return _run(call, model, snapshot, under, BUDGET, own, every=False, rounding=rounding)


def _run(
    call: Callable[[], Any],
    model: nn.Module,
    snapshot: Snapshot,
    under: Sequence[AbstractContextManager[Any]],
    budget: int,
    own: bool,
    every: bool,
    rounding: float | None = None,
) -> Ran:
    outputs: dict[str, Tensor] = {}
    root = next(name for name, _ in every_module(model))
    copies = _Copies(budget, None if every else root)

    def step() -> Tensor:
        for name, tensor in named(call()):
            outputs[name] = tensor.detach().clone()
        return torch.zeros(())

    with Bus(model, [copies], whole=True, alone=rounding is not None) as copies.bus:
        replay(step, model, snapshot, under=under)
    modules = {name for name, _ in every_module(model)}
    events = tuple(_events(copies.bus, copies, modules))
    found = {**(_own(events, root) if own else {}), **outputs}
    formats = copies.formats | {value.dtype for value in found.values()}
    rounding = max((rounding or 0.0, *(ROUNDING.get(each, 0.0) for each in formats)))
    if every:
        return Ran(found, rounding, lambda: events)
    return Ran(found, rounding, lambda: run(call, model, snapshot, under=under).events)


def _own(events: Sequence[Event], root: str) -> dict[str, Tensor]:
    """What the last call of the model itself gave."""
    whole = [each for each in events if each.module == root and each.kind is Kind.OUTPUT]
    calls = max((each.call for each in whole), default=0)
    return {
        each.site.removeprefix(root).replace("[", ".").replace("]", "").strip(".") or "output": (
            each.value
        )
        for each in whole
        if each.value is not None and each.call == calls
    }


def named(value: Any, name: str = "output") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a result by name: `output`, `logits`, `hidden.0`."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, PackedSequence):
        yield name, value.data
    else:
        for key, child in _children(value):
            yield from named(child, str(key) if name == "output" else f"{name}.{key}")


def _children(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return list(value.items())
    if hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, (tuple, list)):
        return list(enumerate(value))
    if is_dataclass(value) and not isinstance(value, type):
        return [(each.name, getattr(value, each.name)) for each in fields(value)]
    return []


def _events(bus: Bus, copies: _Copies, modules: set[str]) -> Iterator[Event]:
    calls: Counter[int] = Counter()
    for number, value in copies.kept:
        site = bus.sites[number]
        yield Event(site.name, _module(site.name, modules), site.kind, calls[number], value)
        calls[number] += 1


def _module(site: str, modules: set[str]) -> str:
    """The module whose part the site is."""
    while site not in modules:
        site = site[: max(site.rfind("."), site.rfind("["))]
    return site
