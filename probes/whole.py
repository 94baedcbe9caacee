"""A sharded model, whole for a while: its passes then speak to no other process."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from probes.wrapped import is_sharded

LIMIT = 2 * 2**30  # bytes that the whole parameters may take
TORCHS, SHARDING = "torch.distributed", "torch.distributed.fsdp"
SPLITTING = "torch.distributed.tensor"
Hooks = MutableMapping[int, Any]


@dataclass(frozen=True, slots=True)
class Piece:
    """A parameter that is sharded, by its module and name, and what it is as a whole.

    outgrows: whether numbers of it are finite, but not in the precision that it is used in.
    """

    owner: dict[str, nn.Parameter | None]
    name: str
    whole: nn.Parameter
    outgrows: bool = False


def gathered(model: nn.Module, keep: bool) -> list[Piece] | None:
    """Every sharded parameter as a whole, in this process where it is to keep them.

    All processes call it together. In the precision that its passes are in. None on all of them
    where the model cannot be made whole: its parameters are too large, or spread otherwise than by
    `fully_shard` and `parallelize_module`.
    """
    found = [
        (module._parameters, name, parameter, policy)
        for module, policy in _with_policies(model)
        for name, parameter in module._parameters.items()
        if parameter is not None and is_sharded(parameter)
    ]
    sizes = {id(p): p.numel() * p.element_size() for _, _, p, _ in found}
    if not found or sum(sizes.values()) > LIMIT or not _is_spread_by_hooks(model):
        return None
    wholes: dict[int, tuple[nn.Parameter, bool]] = {}
    for _, _, parameter, policy in found:
        if id(parameter) not in wholes:
            whole: Tensor = parameter.detach().full_tensor()  # type: ignore[attr-defined]
            whole = whole if keep else whole.new_empty(0)
            used = _cast(whole, policy and policy.param_dtype)
            outgrows = bool((whole.isfinite() & ~used.isfinite()).any())
            wholes[id(parameter)] = nn.Parameter(used, parameter.requires_grad), outgrows
    return [Piece(at, name, *wholes[id(each)]) for at, name, each, _ in found] if keep else []


def is_split(model: nn.Module) -> bool:
    """Whether tensors stay split among processes while they are used: `parallelize_module`."""
    return any(
        _module_of(hook).startswith(SPLITTING)
        for each, _ in _hooks(model)
        for hook in each.values()
    )


def reduced_in(model: nn.Module, name: str) -> torch.dtype | None:
    """The dtype that `fully_shard` sums a parameter's gradients in; None where it does not."""
    owner, _, own = name.rpartition(".")
    home = dict(model.named_modules()).get(owner)
    parameter = None if home is None else home._parameters.get(own)
    policy = next((policy for module, policy in _with_policies(model) if module is home), None)
    if policy is None or parameter is None:
        return None
    found: torch.dtype = policy.reduce_dtype or policy.param_dtype or parameter.dtype
    return found


@contextmanager
def made_whole(model: nn.Module, pieces: Sequence[Piece]) -> Iterator[None]:
    """Inside, the model holds the whole parameters, and nothing gathers or scatters them.

    What a policy of precision casts at the borders of its modules is cast there still.
    """
    kept = [(owner, name, owner[name]) for owner, name in ((p.owner, p.name) for p in pieces)]
    hooks: list[tuple[Hooks, list[tuple[int, Any]]]] = []
    try:
        for each, cast in _hooks(model) if pieces else ():
            before = list(each.items())
            hooks.append((each, before))
            for number, hook in before:
                if _module_of(hook).startswith(SHARDING):
                    each[number] = cast
                elif _module_of(hook).startswith(SPLITTING):
                    del each[number]
        for piece in pieces:
            piece.owner[piece.name] = piece.whole
        yield
    finally:
        for owner, name, parameter in kept:
            owner[name] = parameter
        for each, before in hooks:
            each.clear()
            each.update(before)


def _is_spread_by_hooks(model: nn.Module) -> bool:
    """Whether `fully_shard` and `parallelize_module` spread it, and nothing else of torch."""
    names = [_module_of(hook) for each, _ in _hooks(model) for hook in each.values()]
    spread = [name for name in names if name.startswith(TORCHS)]
    return bool(spread) and all(name.startswith((SHARDING, SPLITTING)) for name in spread)


def _with_policies(module: nn.Module, policy: Any = None) -> Iterator[tuple[nn.Module, Any]]:
    """Every module with the policy of precision that its own parameters are under, or None."""
    policy = _policy(module, policy)
    yield module, policy
    for child in module.children():
        yield from _with_policies(child, policy)


def _policy(module: Any, otherwise: Any) -> Any:
    if not hasattr(module, "_get_fsdp_state"):
        return otherwise
    return getattr(module._get_fsdp_state(), "_mp_policy", None)


def _hooks(model: nn.Module) -> Iterator[tuple[Hooks, Any]]:
    """The hooks ahead of each module and behind it, and what a policy of its own casts there."""
    for module in model.modules():
        policy = _policy(module, None)
        taken = policy.param_dtype if policy and policy.cast_forward_inputs else None
        yield module._forward_pre_hooks, partial(_cast_inputs, taken)
        yield module._forward_hooks, partial(_cast_output, policy and policy.output_dtype)


def _cast_inputs(dtype: torch.dtype | None, _: nn.Module, args: Any, kwargs: Any = None) -> Any:
    cast = _cast_parts((args, kwargs), dtype)
    return cast[0] if kwargs is None else cast


def _cast_output(dtype: torch.dtype | None, *given: Any) -> Any:
    return _cast_parts(given[-1], dtype)


def _cast_parts(value: Any, dtype: torch.dtype | None) -> Any:
    if dtype is None:
        return value
    from torch.distributed.utils import _apply_to_tensors  # as torch's own casts

    return _apply_to_tensors(partial(_cast, dtype=dtype), value)


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _module_of(hook: Any) -> str:
    return str(getattr(hook, "__module__", ""))
