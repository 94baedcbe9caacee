"""Gradients that are cut while a GradScaler's scale is still in them."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler, OptState
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from probes.nested import tensors_in
from probes.raised import source_here
from probes.replay import Snapshot, replay
from probes.stepping.one_step import CALLS, keep_strangers, made, take_step
from probes.stepping.roots import noted_starts
from probes.stepping.scalers import told_of_scalers
from probes.subject import Batch, Subject

CUT = 0.95  # of the gradient: more than that is left as it was
BY_SCALE = 0.9  # of what is left at a scale of 1: more than that is no work of the scale
SAME = 0.1  # by which the norm of one gradient may differ at two scales, in half precision
REPEATS = 1e-3  # by which two runs that are the same may differ


@dataclass(slots=True)
class Met:
    """The gradients of one optimizer as its scaler meets them, before it divides by the scale.

    norm: of what the last backward pass left, divided by the scale. left: the share of it that is
    there. source: the line that took most of it. moved: how far the step moved the parameters.
    """

    scaler: GradScaler
    scale: float
    norm: float
    left: float
    source: str | None
    moved: float = 0.0

    def repeats(self, other: Met) -> bool:
        """Whether another run of the same step did the same."""
        pairs = ((self.norm, other.norm), (self.left, other.left))
        return all(abs(one - two) <= REPEATS * abs(one) for one, two in pairs)

    def is_cut_by(self, plain: Met) -> bool:
        """Whether it is the scale that cuts: of the same gradient more is left at a scale of 1."""
        same = abs(self.norm - plain.norm) <= SAME * plain.norm
        return same and self.left < CUT and self.left < BY_SCALE * plain.left


def scaled_cuts(subject: Subject, batch: Batch) -> Iterator[tuple[Met, Met]]:
    """What is left of gradients that are cut with their scale, and what is at a scale of 1.

    A step is taken until a scaler meets finite gradients, then again at that scale and at 1, each
    time from the same state. What knows of the scale, as a limit times `get_scale()` does, leaves
    the same of both. All is undone. Raises ExperimentError where a step raises.
    """
    found = _run(subject, batch)
    scales = {id(each.scaler): (each.scaler, each.scale) for each in found}
    if not any(each.scale > 1 and each.left < CUT for each in found):
        return
    own, again = (_run(subject, batch, list(scales.values()), lines=i == 0) for i in range(2))
    plain = _run(subject, batch, [(scaler, 1.0) for scaler, _ in scales.values()])
    if len(own) == len(again) == len(plain):
        for each, same, one in zip(own, again, plain, strict=True):
            if each.scale > 1 and each.repeats(same) and each.is_cut_by(one):
                yield each, one


def _run(
    subject: Subject,
    batch: Batch,
    scales: Sequence[tuple[GradScaler, float]] = (),
    lines: bool = False,
) -> list[Met]:
    """What scalers met in the first call of the step in which all of that was finite."""
    model, found = subject.model, list[Met]()

    def step() -> Tensor:
        with ExitStack() as inside:
            noted = _Noted(model, inside)
            for scaler, scale in scales:
                noted.keep(scaler)
                _set(scaler, scale)
            loop = made(subject)
            inside.enter_context(noted_starts(noted.begins, noted.ends))
            inside.enter_context(told_of_scalers(noted.told))
            if lines:
                inside.enter_context(_Lines(noted))
            for _ in range(CALLS):
                noted.met.clear()
                before = [p.detach().clone() for p in noted.parameters]
                take_step(loop, batch)
                if noted.met and all(math.isfinite(each.norm) for each in noted.met):
                    moved = _norm(p - q for p, q in zip(noted.parameters, before, strict=True))
                    for each in noted.met:
                        each.moved = moved
                    found.extend(noted.met)
                    break
        return torch.zeros(())

    with ExitStack() as outside:
        keep_strangers(subject, outside)
        replay(step, model, Snapshot.take(model, parameters=True))
    return found


@dataclass(slots=True)
class _Noted:
    """Notes what backward passes leave, and what of it scalers meet; scalers end as they began."""

    model: nn.Module
    after: ExitStack
    parameters: list[Tensor] = field(default_factory=list)
    came: dict[int, float] = field(default_factory=dict)
    met: list[Met] = field(default_factory=list)
    shares: dict[int, dict[str, float]] = field(default_factory=dict)  # by place and line
    busy: bool = False
    _kept: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.parameters = list(self.model.parameters())

    def keep(self, scaler: GradScaler) -> None:
        """It is given back as it is now."""
        if id(scaler) not in self._kept:
            self._kept.add(id(scaler))
            self.after.callback(vars(scaler).update, copy.deepcopy(vars(scaler)))

    def begins(self, *_: Any) -> None:
        """A backward pass does."""
        self.busy = True

    def ends(self) -> None:
        """It did, and left gradients."""
        self.came = {id(p): _norm([p.grad]) for p in self.parameters if p.grad is not None}
        self.shares = {place(p.grad): {} for p in self.parameters if p.grad is not None}
        self.busy = False

    def told(self, name: str, scaler: GradScaler, given: Any) -> None:
        """A scaler is at work; where it has not divided yet, its gradients are looked at."""
        self.keep(scaler)
        if name == "scale":
            return
        if scaler._per_optimizer_states[id(given)]["stage"] is OptState.READY:
            self._meet(scaler, given)
        self.shares = {}  # what the scaler itself writes is its business

    def _meet(self, scaler: GradScaler, optimizer: Optimizer) -> None:
        held = [p for group in optimizer.param_groups for p in group["params"]]
        grads = [p.grad for p in held if p.grad is not None and id(p) in self.came]
        then = math.hypot(*(self.came[id(p)] for p in held if id(p) in self.came))
        if not grads or not then > 0:
            return
        shares = dict[str, float]()
        for grad in grads:
            for line, share in self.shares.get(place(grad), {}).items():
                shares[line] = min(share, shares.get(line, 1.0))
        source = min(shares, key=lambda line: shares[line], default=None)
        scale = float(scaler.get_scale())
        self.met.append(Met(scaler, scale, then / scale, _norm(grads) / then, source))


class _Lines(TorchDispatchMode):
    """Notes by which share each line of the user's code makes gradients smaller."""

    def __init__(self, noted: _Noted) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._noted = noted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given, shares = kwargs or {}, self._noted.shares
        read = (
            []
            if self._noted.busy
            else [each for each in tensors_in((args, given)) if place(each) in shares]
        )
        before = [_norm([each]) for each in read]
        out = func(*args, **given)
        for tensor, size in zip(read, before, strict=True):
            made = {id(each): each for each in (tensor, *tensors_in(out))}
            for each in made.values():
                if each.shape == tensor.shape:
                    self._came(tensor, each, _norm([each]) / size if size else 1.0)
        return out

    def _came(self, tensor: Tensor, made: Tensor, share: float) -> None:
        known, line = self._noted.shares[place(tensor)], source_here()
        if line is not None and share < 1:
            known = {**known, line: known.get(line, 1.0) * share}
        self._noted.shares[place(made)] = known


def place(tensor: Tensor | None) -> int:
    """Where its numbers lie."""
    strided = tensor is not None and tensor.layout is torch.strided
    return tensor.untyped_storage().data_ptr() if tensor is not None and strided else 0


def _norm(tensors: Any) -> float:
    sizes = (t.detach().to_dense().double() for t in tensors)
    return math.hypot(*(float(torch.linalg.vector_norm(each)) for each in sizes))


def _set(scaler: GradScaler, scale: float) -> None:
    scaler._init_scale = scale
    if scaler._scale is not None:
        scaler._scale = torch.full_like(scaler._scale, scale)
