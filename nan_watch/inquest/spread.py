"""What it means for a finding that a spread model's step was replayed in one process."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from nan_watch.case.symptom import Symptom
from nan_watch.causes.half_range import HalfRange
from nan_watch.causes.poisoned_parameter import PoisonedParameter
from nan_watch.inquest.captured import Captured
from probes.finding import Evidence, Finding
from probes.whole import Piece, reduced_in

POLICY = "`fully_shard(module, mp_policy=MixedPrecisionPolicy({}=torch.{}))`"


def in_one_process(told: Finding, captured: Captured, symptom: Symptom, *, split: bool) -> Finding:
    """The finding; with what follows from it, where the model was made whole for the replay.

    A parameter that is finite, and not so in the precision that it is used in, is no poisoned one;
    and a gradient that is finite in one process may outgrow what the processes sum it in. split:
    whether tensors stay split among processes while they are used.
    """
    if not captured.whole:
        return told
    if told.op is None:
        return _of_a_sum(told, captured.model, symptom)
    if told.code == PoisonedParameter.code:
        told = _of_a_copy(told, captured)
    if not split:
        return told
    said = Evidence("the step, replayed without tensor parallelism", "by whole parameters")
    return replace(told, evidence=(*told.evidence, said))


def _of_a_copy(told: Finding, captured: Captured) -> Finding:
    piece = _piece(told.site or "", captured)
    if piece is None or not piece.outgrows:
        return told
    held, dtype = f"`{told.site}` held ", _name(piece.whole.dtype)
    return replace(
        told,
        code=HalfRange.code,
        rule=HalfRange.rule,
        message=told.message.replace(
            held, f"`{told.site}` outgrows {dtype}, in which its module computes: a copy held ", 1
        ),
        fix=f"Let its module compute in bfloat16, as by {POLICY.format('param_dtype', 'bfloat16')},"
        " or keep its weights small.",
    )


def _of_a_sum(told: Finding, model: nn.Module, symptom: Symptom) -> Finding:
    names = [each.name for each in symptom.grads]
    dtype = reduced_in(model, told.site) if told.site in names else None
    if dtype is not torch.float16:
        return told
    said = Evidence("gradients are summed over the processes in", _name(dtype))
    fix = f"{told.fix.removesuffix('.')}; sum gradients over processes in float32, as by "
    fix += f"{POLICY.format('reduce_dtype', 'float32')}."
    return replace(told, fix=fix, evidence=(*told.evidence, said))


def _piece(site: str, captured: Captured) -> Piece | None:
    owner, _, name = site.rpartition(".")
    module = dict(captured.model.named_modules()).get(owner)
    held = None if module is None else module._parameters
    return next((each for each in captured.whole if each.owner is held and each.name == name), None)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
