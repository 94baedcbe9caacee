"""What the backward pass computes again, as in checkpointing, and gets otherwise than forward."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import checkpoint as checkpointing
from torch.utils._python_dispatch import TorchDispatchMode

from probes.bus import Bus, Kind, See
from probes.experiment import LOSS, Experiment
from probes.nested import tensors_in
from probes.raised import source_here
from probes.running import names_of, running
from probes.stepping.one_step import step_under

SAME = 1e-3  # of the largest value, up to which what a module gives again is the same
BUDGET = 2**28  # bytes of values that are kept


@dataclass(frozen=True, slots=True)
class Recomputed:
    """site: the module that is computed again. op: the draw that fell otherwise, if it was one.

    source: where the forward pass asked for it, or else the line of the draw.
    """

    site: str
    op: str | None
    source: str | None


def recomputed(experiment: Experiment) -> Recomputed | None:
    """The first of a step's backward pass that differs from all that its forward pass gave."""
    model = experiment.subject.model
    draws, given = _Draws(model), _Given()
    with Bus(model, [given], whole=True) as given.bus:
        step_under(experiment.subject, experiment.batch, draws)
    return draws.found or given.found


class _Draws(TorchDispatchMode):
    """Keeps what the forward pass draws, and looks for what is drawn again among it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: Recomputed | None = None
        self._names = names_of(model)
        self._kept: dict[tuple[Any, ...], list[Tensor]] = defaultdict(list)
        self._asked: dict[str, str | None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operator has run as it would have."""
        out = func(*args, **(kwargs or {}))
        if self.found is None and torch.Tag.nondeterministic_seeded in func.tags:
            self._look(str(func).rpartition(".")[0], out)
        return out

    def _look(self, op: str, out: Any) -> None:
        site = running(self._names) or LOSS
        every = list(tensors_in(out))
        fell = next((t for t in every if t.dtype is torch.bool), every[0] if every else None)
        if fell is None:
            return
        kept = self._kept[op, fell.shape, fell.dtype]
        if not _in_backward():
            kept.append(fell.detach().clone())
            self._asked.setdefault(site, _asked_at())
        elif kept and torch.is_grad_enabled() and (site != "<loss>" or _asked_at() is not None):
            same = any(torch.equal(fell, each) for each in kept)
            if not same:
                self.found = Recomputed(site, op, self._asked.get(site) or source_here())


class _Given:
    """Keeps what modules are given and give, and looks for what that is again among it."""

    def __init__(self) -> None:
        self.found: Recomputed | None = None
        self.bus: Bus | None = None
        self.sees: Mapping[Kind, See] = {Kind.INPUT: self._see, Kind.OUTPUT: self._see}
        self._kept: dict[int, list[Tensor]] = defaultdict(list)
        self._left = BUDGET

    def _see(self, number: int, tensor: Tensor) -> None:
        assert self.bus is not None
        value = tensor.detach()
        if not value.is_floating_point() or value.layout is not torch.strided:
            return
        if not _in_backward():
            self._left -= value.numel() * value.element_size()
            if self._left > 0:
                self._kept[number].append(value.clone())
        elif self.found is None and self._left > 0 and self._kept[number]:
            same = any(_is_same(value, each) for each in self._kept[number])
            if not same:
                site = self.bus.sites[number].name.partition("[")[0]
                self.found = Recomputed(site, None, source_here())


def _is_same(one: Tensor, two: Tensor) -> bool:
    if one.shape != two.shape:
        return False
    return bool((one - two).abs().max() <= SAME * two.abs().max()) or torch.equal(one, two)


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1


def _asked_at() -> str | None:
    """The user's line that called torch's checkpointing, where that is at work."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code.co_filename == checkpointing.__file__:
            return source_here(frame)
    return None
