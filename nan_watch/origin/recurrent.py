"""Inside `nn.LSTM`, `nn.GRU`, `nn.RNN` and their cells: layer, direction, time step and gate.

With the fused kernels off, a recurrence runs as one matrix product with its `weight_hh` a step.
Which weight an operator reads says the layer and the direction; how often, the step.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from nan_watch.origin.operators import Operator
from nan_watch.origin.sources import RnnStep, module_names
from probes.nested import tensors_in

PRODUCTS = frozenset(f"aten.{name}" for name in ("addmm", "addmv", "bmm", "linear", "mm", "mv"))
GATES = {
    "LSTM": ("input", "forget", "cell", "output"),
    "GRU": ("reset", "update", "new"),
    "RNN": ("hidden",),
}


@dataclass(frozen=True, slots=True)
class Growth:
    """The largest magnitude of a recurrent state at each time step, and of its gradient.

    `state[t]` is what step t starts from; `gradient[t]` is what comes back to step t's gates.
    """

    site: str
    layer: int | None
    direction: str | None
    state: tuple[float, ...]
    gradient: tuple[float, ...]

    @property
    def factor(self) -> float | None:
        """The geometric mean of the state's growth per step, over its finite, non-zero steps."""
        return _factor(self.state)

    @property
    def gradient_factor(self) -> float | None:
        """The same of the gradient, per step back in time."""
        return _factor(self.gradient[::-1])


@dataclass(frozen=True, slots=True)
class _Weight:
    site: str
    module: nn.Module
    layer: int | None
    direction: str | None
    hidden: bool


Key = tuple[str, int, int | None, str | None]


class Recurrences:
    """Follows every recurrent module of a model through a step that runs under a ledger."""

    def __init__(self, model: nn.Module) -> None:
        self._weights: dict[int, _Weight] = {}
        self._modules: dict[str, nn.Module] = {}
        self._now: dict[str, RnnStep] = {}
        self._frames: dict[str, FrameType] = {}
        self._rows: dict[tuple[str, int], tuple[int, ...]] = {}
        self._states: dict[Key, list[float]] = {}
        self._gradients: dict[Key, dict[int, float]] = {}
        names = module_names(model)
        for module in model.modules():
            if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
                self._add(names[id(module)], module)

    def _add(self, site: str, module: nn.Module) -> None:
        self._modules[site] = module
        for name, weight in module.named_parameters(recurse=False):
            if name.startswith(("weight_ih", "weight_hh")):
                _, _, place = name.partition("_l")
                layer, _, reverse = place.partition("_")
                both = isinstance(module, nn.RNNBase) and module.bidirectional
                direction = "reverse" if reverse else "forward" if both else None
                self._weights[weight.data_ptr()] = _Weight(
                    site, module, int(layer) if layer else None, direction, "_hh" in name
                )

    def see(self, known: Operator, args: Sequence[Any], step_of_node: Callable[[], Any]) -> None:
        """Where an operator multiplies by a recurrent weight, the recurrence has moved on."""
        if not self._weights or known.name not in PRODUCTS:
            return
        tensors = list(tensors_in(list(args)))
        for tensor in tensors:
            weight = self._weights.get(tensor.data_ptr())
            if weight is not None:
                self._move(weight, [t for t in tensors if t is not tensor], step_of_node)

    def copied(self, known: Operator, args: Sequence[Any], out: Any) -> None:
        """A weight's copy in another precision, as autocast makes, stands for the weight."""
        if self._weights and known.name == "aten._to_copy" and isinstance(out, Tensor):
            weight = self._weights.get(args[0].data_ptr())
            if weight is not None:
                self._weights[out.data_ptr()] = weight

    def _move(self, weight: _Weight, others: list[Tensor], step_of_node: Callable[[], Any]) -> None:
        frame = _frame_of(weight.module)
        if frame is None:  # in C++, from the engine: a step of the backward pass
            step = step_of_node()
            if weight.hidden and isinstance(step, RnnStep) and step.order is not None:
                key = (weight.site, step.call, weight.layer, weight.direction)
                self._gradients.setdefault(key, {})[step.order] = _largest(others)
            return
        call = self._call(weight.site, frame)
        key = (weight.site, call, weight.layer, weight.direction)
        states = self._states.setdefault(key, [])
        order = None
        if weight.hidden:
            order = len(states)
            states.append(_largest(others))
        elif _rows(others) <= self._rows[(weight.site, call)][0]:
            order = len(states)  # off the processor each step projects its own inputs
        if isinstance(weight.module, nn.RNNCellBase):
            order = call
        self._now[weight.site] = RnnStep(call, weight.layer, weight.direction, order)

    def _call(self, site: str, frame: FrameType) -> int:
        """The number of the module's call; a frame is kept so that it is not taken for another."""
        before = self._now.get(site)
        if self._frames.get(site) is frame and before is not None:
            return before.call
        self._frames[site] = frame
        call = 0 if before is None else before.call + 1
        self._rows[(site, call)] = _batch_sizes(frame)
        return call

    def at(self, site: str, tensors: Any) -> RnnStep | None:
        """Where the recurrence at the site is, and at which gate the tensors lie."""
        step = self._now.get(site)
        if step is None:
            return None
        gates = self.gates(site)
        width = int(self._modules[site].hidden_size)  # type: ignore[arg-type]
        for tensor in tensors_in(tensors):
            row = len(gates) * width
            if tensor.ndim == 2 and tensor.shape[1] == width and tensor.stride(0) == row > width:
                return replace(step, gate=gates[int(tensor.storage_offset()) % row // width])
        return step

    def gates(self, site: str) -> tuple[str, ...]:
        """The names of the gates, in the order in which torch keeps them."""
        name = type(self._modules[site]).__name__.removesuffix("Cell")
        kinds = [kind for kind in GATES if name.endswith(kind)] or [
            kind for kind in GATES if isinstance(self._modules[site], getattr(nn, kind))
        ]
        return GATES[kinds[0]] if kinds else ("hidden",)

    def coordinates(
        self, site: str, step: RnnStep, shape: tuple[int, ...], first: tuple[int, ...]
    ) -> dict[str, int | str]:
        """The step's coordinates by name, those of a bad element in a tensor of the shape too."""
        gates, found = self.gates(site), {"layer": step.layer, "direction": step.direction}
        where: dict[str, int | str] = {k: v for k, v in found.items() if v is not None}
        width = int(self._modules[site].hidden_size)  # type: ignore[arg-type]
        gate, row = step.gate, first[-2] if len(first) > 1 else None
        if gate is None and shape and shape[-1] == len(gates) * width > width:
            gate = gates[first[-1] // width]
        if step.order is not None:
            where["time"] = self._time(site, step)
        elif row is not None:  # the inputs of all steps were projected at once
            where["time"], row = self._time_of_row(site, step, first)
        if row is not None and row >= 0:
            where["sample"] = row
        if gate is not None:
            where["gate"] = gate
        if first and shape[-1] in (width, len(gates) * width):
            where["feature"] = first[-1] % width
        return where

    def _time(self, site: str, step: RnnStep) -> int:
        assert step.order is not None
        if step.direction != "reverse":
            return step.order
        return len(self._states[(site, step.call, step.layer, step.direction)]) - 1 - step.order

    def _time_of_row(self, site: str, step: RnnStep, first: tuple[int, ...]) -> tuple[int, int]:
        if len(first) > 2:  # (time, sample, feature)
            return first[-3], first[-2]
        sizes, row = self._rows[(site, step.call)], first[-2]
        if len(sizes) == 1:  # not packed: rows are (time, sample)
            return divmod(row, max(1, sizes[0]))
        for time, size in enumerate(sizes):
            if row < size:
                return time, row
            row -= size
        return len(sizes) - 1, -1

    def growth(self, site: str, step: RnnStep) -> Growth:
        """How the state grew over the steps of the call that the step belongs to."""
        cell = isinstance(self._modules[site], nn.RNNCellBase)
        keys: list[Key] = [(site, step.call, step.layer, step.direction)]
        if cell:  # each call is a step
            keys = [key for key in self._states if key[0] == site]
        states = [value for key in keys for value in self._states.get(key, [])]
        found = {order: v for key in keys for order, v in self._gradients.get(key, {}).items()}
        gradients = [found[order] for order in sorted(found)]
        if step.direction == "reverse":
            states, gradients = states[::-1], gradients[::-1]
        return Growth(site, step.layer, step.direction, tuple(states), tuple(gradients))


def _frame_of(module: nn.Module) -> FrameType | None:
    """The frame of the module's forward pass, if it is running."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "forward" and frame.f_locals.get("self") is module:
            return frame
        frame = frame.f_back
    return None


def _batch_sizes(frame: FrameType) -> tuple[int, ...]:
    """How many rows each time step has where packed; else the number of samples alone."""
    known = frame.f_locals
    packed, batch = known.get("batch_sizes"), known.get("max_batch_size")
    if isinstance(packed, Tensor):
        return tuple(packed.tolist())
    return (int(batch),) if isinstance(batch, int) else (1,)


def _rows(tensors: list[Tensor]) -> int:
    """How many rows the first of them has that is a matrix; the inputs of a product."""
    return next((t.shape[:-1].numel() for t in tensors if t.ndim > 1), 0)


def _largest(tensors: list[Tensor]) -> float:
    found = [t.detach() for t in tensors if t.ndim > 1 and t.numel()]
    return float(torch.linalg.vector_norm(found[0], torch.inf)) if found else math.nan


def _factor(sizes: Sequence[float]) -> float | None:
    finite = [(t, size) for t, size in enumerate(sizes) if math.isfinite(size) and size > 0]
    if len(finite) < 2:
        return None
    (begin, first), (end, last) = finite[0], finite[-1]
    return float((last / first) ** (1 / (end - begin)))
