"""A sharded model, whole for a while: its passes then speak to no other process."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from probes.wrapped import is_sharded

LIMIT = 2 * 2**30  # bytes that the whole parameters may take
TORCHS, SHARDING = "torch.distributed", "torch.distributed.fsdp"
Hooks = MutableMapping[int, Any]


@dataclass(frozen=True, slots=True)
class Piece:
    """A parameter that is sharded, by its module and name, and what it is as a whole."""

    owner: dict[str, nn.Parameter | None]
    name: str
    whole: nn.Parameter


def gathered(model: nn.Module, keep: bool) -> list[Piece] | None:
    """Every sharded parameter as a whole, in this process where it is to keep them.

    All processes call it together. None on all of them where the model cannot be made whole: its
    parameters are too large, or split otherwise than by `fully_shard` alone, or held in another
    precision than its passes are in.
    """
    found = [
        (module._parameters, name, parameter)
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None and is_sharded(parameter)
    ]
    sizes = {id(p): p.numel() * p.element_size() for _, _, p in found}
    if not found or sum(sizes.values()) > LIMIT or not _is_only_sharded(model):
        return None
    wholes: dict[int, nn.Parameter] = {}
    for _, _, parameter in found:
        if id(parameter) not in wholes:
            whole: Tensor = parameter.detach().full_tensor()  # type: ignore[attr-defined]
            held = whole if keep else whole.new_empty(0)
            wholes[id(parameter)] = nn.Parameter(held, parameter.requires_grad)
    return [Piece(owner, name, wholes[id(each)]) for owner, name, each in found] if keep else []


@contextmanager
def made_whole(model: nn.Module, pieces: Sequence[Piece]) -> Iterator[None]:
    """Inside, the model holds the whole parameters, and nothing gathers or scatters them."""
    kept = [(owner, name, owner[name]) for owner, name in ((p.owner, p.name) for p in pieces)]
    hooks: list[tuple[Hooks, list[tuple[int, Any]]]] = []
    try:
        for each in _hooks(model) if pieces else ():
            before = list(each.items())
            hooks.append((each, before))
            for number, hook in before:
                if _module_of(hook).startswith(SHARDING):
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


def _is_only_sharded(model: nn.Module) -> bool:
    """Whether `fully_shard` alone spreads it, without tensors that stay split while they are used.

    And whether its passes are in the precision of its parameters.
    """
    names = [_module_of(hook) for each in _hooks(model) for hook in each.values()]
    spread = [name for name in names if name.startswith(TORCHS)]
    only = bool(spread) and all(name.startswith(SHARDING) for name in spread)
    return only and all(map(_is_in_one_precision, model.modules()))


def _is_in_one_precision(module: Any) -> bool:
    if not hasattr(module, "_get_fsdp_state"):
        return True
    policy = getattr(module._get_fsdp_state(), "_mp_policy", None)
    return policy is not None and policy.param_dtype is None and policy.output_dtype is None


def _hooks(model: nn.Module) -> Iterator[Hooks]:
    for module in model.modules():
        yield from (module._forward_pre_hooks, module._forward_hooks)


def _module_of(hook: Any) -> str:
    return str(getattr(hook, "__module__", ""))
