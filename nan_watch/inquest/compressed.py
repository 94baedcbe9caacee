"""Gradients that are finite in their own process, and not as a communication hook reduces them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nan_watch.case.symptom import Symptom
from nan_watch.causes.half_range import HALF, HalfRange
from nan_watch.inquest.hold import Repeatable
from nan_watch.inquest.marks import Mark
from nan_watch.origin.sources import address
from nan_watch.state import Poisoned
from probes.finding import Evidence, Finding
from probes.replay import is_finite, replay
from probes.wrapped import around

HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class Outgrown:
    """A gradient whose own numbers the dtype does not hold where the reduced ones are not finite.

    largest: of its own numbers. first: where, of those, the first one is not finite.
    """

    name: str
    dtype: torch.dtype
    largest: float
    count: int
    first: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Unreduced:
    """The gradients of this process's own, as they were before `hook` reduced them.

    outgrown: the first that a half does not hold. is_finite: whether all of them are.
    """

    hook: str
    is_finite: bool
    outgrown: Outgrown | None

    @property
    def at_fault(self) -> bool:
        """Whether it is this process whose gradients made the others' not finite."""
        return self.outgrown is not None or not self.is_finite


def hook_of(model: nn.Module) -> str | None:
    """The name of the hook by which a DistributedDataParallel around the model reduces."""
    hooks = (each for one in around(model) for each, _ in getattr(one, "_comm_hooks", ()))
    return next((getattr(each, "__name__", type(each).__name__) for each in hooks), None)


def unreduced(
    hook: str, model: nn.Module, step: Repeatable, optimizer: Optimizer, odd: Sequence[Poisoned]
) -> Unreduced | None:
    """What the step gives when it runs again in this process alone; None where it cannot."""
    parameters = dict(model.named_parameters())
    reduced = {each.name: parameters[each.name].grad for each in odd if each.name in parameters}
    try:
        own = replay(step.run, model, step.snapshot, optimizers=[optimizer]).grads
    except Exception:  # what it needs is gone
        return None
    finite = all(grad is None or is_finite(grad) for grad in own.values())
    return Unreduced(hook, finite, _outgrown(own, reduced) if finite else None)


def as_reduced(
    told: Finding, known: Unreduced | None, symptom: Symptom, end: Mark | None
) -> Finding:
    """The finding; or that of the hook, where what it was given is finite. end: of the pass."""
    if known is None or not known.is_finite or told.op is not None or not symptom.grads:
        return told
    hook = f"the communication hook `{known.hook}` of DistributedDataParallel"
    said = Evidence("gradients of this rank's own, its step run again alone", "finite")
    if known.outgrown is None:
        return replace(
            told,
            message=f"the gradient of `{symptom.grads[0].name}` is finite on this rank, and is no "
            f"longer so once {hook} has reduced those of all ranks, in step {told.step}.",
            fix=f"Reduce without `{known.hook}` for some steps: where the gradients are finite "
            "then, it is what it does to them; clip them before they are sent, or leave it out.",
            evidence=(said, *told.evidence),
        )
    return _of_a_half(told, known.outgrown, known.hook, hook, end, said)


def _of_a_half(
    told: Finding, own: Outgrown, name: str, hook: str, end: Mark | None, said: Evidence
) -> Finding:
    half, limit = HALF[own.dtype], torch.finfo(own.dtype).max
    line = end.lines[0] if end is not None and end.lines else None
    return replace(
        told,
        code=HalfRange.code,
        rule=HalfRange.rule,
        message=f"the gradient of `{own.name}` is finite on this rank, up to {own.largest:.4g}, "
        f"and outgrows {half}, which ends at {limit:.6g}: {hook} sends it in that, and it comes "
        f"back not finite in step {told.step}.",
        fix=f"Reduce without `{name}`, or in bfloat16 where the hook sends float16; clip gradients "
        f"before they are sent, or scale the loss down, so that none passes {limit:.6g}.",
        site=own.name,
        phase="backward",
        op="aten._to_copy",
        source=None if line is None else address(line[1].co_filename, line[2]),
        where=dict(zip(("row", "column"), own.first, strict=False)) if own.first else {},
        evidence=(
            Evidence(f"largest number of the gradient of {own.name}", own.largest, limit),
            Evidence(f"numbers of it that {half} does not hold, and came back so", own.count, 0),
            said,
            *told.evidence,
        ),
    )


def _outgrown(own: Mapping[str, Tensor | None], reduced: Mapping[str, Any]) -> Outgrown | None:
    for name, back in reduced.items():
        grad = own.get(name)
        if grad is None or back is None or grad.shape != back.shape:
            continue
        for dtype in (each for each in HALVES if each != grad.dtype):
            lost = ~grad.to(dtype).isfinite() & ~back.isfinite()
            if bool(lost.any()):
                first = tuple(lost.nonzero()[0].tolist())
                return Outgrown(name, dtype, float(grad.abs().max()), int(lost.sum()), first)
    return None
