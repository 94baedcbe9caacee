"""Where a wrong gradient enters: behind the last call whose slope is wrong, seen from the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from probes.modules import every_module
from probes.place import CODE
from probes.slopes.shifted import Called, Event
from probes.slopes.slope import Exact, Slope

MOST = 60  # events of one module that are looked at, from the loss backwards


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a module. inner: the calls that it makes. grad: whether gradients were on."""

    name: str
    number: int
    grad: bool
    inner: list[Call] = field(default_factory=list)

    def event(self, end: str) -> Event:
        """What enters it (`in`) or leaves it (`out`)."""
        return self.name, self.number, end


@dataclass(frozen=True, slots=True)
class Entered:
    """site: the module in whose code it enters, or `<loss>`. words: that, in a sentence.

    slope: the last wrong one. grad: whether gradients were on there.
    """

    site: str
    words: str
    slope: Slope
    grad: bool


class _Recorded(Called):
    """Keeps the tree of calls."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.top: list[Call] = []
        self._open: list[Call] = []

    def passed(self, event: Event, value: Any) -> Any:
        """The value itself."""
        if event[2] == "out":
            self._open.pop()
            return value
        call = Call(event[0], event[1], torch.is_grad_enabled())
        (self._open[-1].inner if self._open else self.top).append(call)
        self._open.append(call)
        return value


def enters(exact: Exact) -> Entered | None:
    """The innermost module in which it enters; None where no call's slope is wrong."""
    recorded = _Recorded(exact.model)
    exact.gradient(around_loss=recorded)
    root = next(every_module(exact.model))[0]
    calls, parent = recorded.top, CODE
    found: Entered | None = None
    while calls:
        last = _last_wrong(exact, calls, root)
        if last is None:
            inner = [each for call in calls if call.name == root for each in call.inner]
            if parent != CODE or not inner:
                return found
            calls, parent = inner, root
            continue
        call, end, slope = last
        if end == "out":
            return Entered(parent, _after(parent, call, calls), slope, call.grad)
        first = f", before it calls `{call.inner[0].name}`" if call.inner else ""
        found = Entered(call.name, f"in `{call.name}`{first}", slope, call.grad)
        calls, parent = call.inner, call.name
    return found


def _last_wrong(exact: Exact, calls: Sequence[Call], root: str) -> tuple[Call, str, Slope] | None:
    """The last of these events, seen in time, whose slope the backward pass gets wrong."""
    pairs = [(call, end) for call in calls for end in ("in", "out")]
    pairs = [pair for pair in pairs if pair != (pair[0], "in") or pair[0].name != root][-MOST:]
    backs = exact.at([call.event(end) for call, end in pairs])
    for call, end in reversed(pairs):
        event = call.event(end)
        slope = exact.through(event, backs[event])
        if not slope.agree:
            return call, end, slope
    return None


def _after(parent: str, call: Call, calls: Sequence[Call]) -> str:
    later = calls[calls.index(call) + 1 :]
    if parent == CODE:
        return f"in the subject's own code, after `{call.name}`"
    then = f" and before `{later[0].name}`" if later else ""
    return f"in the code of `{parent}`, after `{call.name}`{then}"
