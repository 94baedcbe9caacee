"""What stands around a model: DistributedDataParallel, and what `torch.compile` returns."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from probes.errors import RequestError

SYNC = ("require_backward_grad_sync", "require_forward_param_sync")


def wrappers_of(model: nn.Module) -> list[nn.Module]:
    """The DistributedDataParallels and compiled modules around a model, the outermost first.

    Raises RequestError where it is no module.
    """
    if not isinstance(model, nn.Module):
        raise RequestError(
            f"`model` is a {type(model).__name__}, but an `nn.Module` was expected: pass the model "
            "that is trained; several that are trained together as one `nn.ModuleList`."
        )
    found: list[nn.Module] = []
    while (inner := _inside(model)) is not None:
        found.append(model)
        model = inner
    return found


def innermost(model: nn.Module) -> nn.Module:
    """The model that the user wrote, from inside of what is around it."""
    while (inner := _inside(model)) is not None:
        model = inner
    return model


def called_instead(wrappers: Sequence[nn.Module]) -> nn.Module | None:
    """The outermost of them, where one is compiled code, into which hooks cannot call back."""
    return wrappers[0] if any(is_optimized(each) for each in wrappers) else None


def is_compiled(model: nn.Module) -> bool:
    """Whether `torch.compile` returned it, or `model.compile()` was called."""
    return is_optimized(model) or getattr(model, "_compiled_call_impl", None) is not None


def _inside(model: nn.Module) -> nn.Module | None:
    if isinstance(model, DistributedDataParallel):
        inner: nn.Module = model.module
        return inner
    return model._orig_mod if is_optimized(model) else None  # type: ignore[return-value]


def optimized(model: nn.Module) -> list[nn.Module]:
    """Every module that `torch.compile` made of the model, whoever holds it."""
    frames = sys.modules.get("torch._dynamo.eval_frame")
    if frames is None:
        return []
    kind = frames.OptimizedModule
    found = [each for each in gc.get_objects() if type(each) is kind]
    return [each for each in found if innermost(each) is model]


def is_optimized(model: nn.Module) -> bool:
    """Whether `torch.compile` returned it."""
    frames = sys.modules.get("torch._dynamo.eval_frame")
    return frames is not None and isinstance(model, frames.OptimizedModule)


@contextmanager
def alone(model: nn.Module) -> Iterator[None]:
    """Inside, a pass through what is around the model speaks to no other process."""
    wrappers = around(model) if several() else []
    before = [{name: getattr(each, name) for name in SYNC} for each in wrappers]
    for each in wrappers:
        for name in SYNC:
            setattr(each, name, False)
    try:
        yield
    finally:
        for each, kept in zip(wrappers, before, strict=True):
            for name, value in kept.items():
                setattr(each, name, value)


def around(model: nn.Module) -> list[Any]:
    """Every DistributedDataParallel around the model, whoever holds it, or inside."""
    inside = {id(each) for each in model.modules()}
    return [each for each in reducers() if innermost(each) is model or id(each) in inside]


def reducers() -> list[Any]:
    """Every DistributedDataParallel of this process, whoever holds it."""
    found = (each for each in gc.get_objects() if issubclass(type(each), DistributedDataParallel))
    return list(found)


def stages(model: nn.Module) -> list[Any]:
    """The stages of a pipeline of this process that the model is, or holds."""
    module = sys.modules.get("torch.distributed.pipelining.stage")
    if module is None:
        return []
    inside = {id(each) for each in model.modules()}
    kind = module._PipelineStageBase
    found = [each for each in gc.get_objects() if issubclass(type(each), kind)]
    return [each for each in found if id(innermost(each.submod)) in inside]


def needs_others(model: nn.Module) -> bool:
    """Whether the model's own passes speak to other processes: sharded, or SyncBatchNorm."""
    return any(is_sharded(each) for each in model.parameters()) or (
        several() and any(isinstance(each, nn.SyncBatchNorm) for each in model.modules())
    )


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor, of which each process may hold a part."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """The part of it that lies in this process."""
    if not is_sharded(tensor):
        return tensor
    part: Tensor = tensor.to_local()  # type: ignore[attr-defined]
    return part


def several() -> bool:
    """Whether this process is one of several that have found each other."""
    dist = torch.distributed
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
