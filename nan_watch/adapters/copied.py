"""An optimizer and a schedule that a trainer holds, made again for another model."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

_LEFT = ("step", "zero_grad")  # wrapped by schedules and by others, for the instance


def optimizer_for(model: nn.Module, like: Optimizer, names: Mapping[int, str]) -> Optimizer:
    """An optimizer of the same class and settings, without state, of this model's parameters.

    names: the name of each parameter that `like` holds, by its id; one without a name is shared.
    """
    new = dict(model.named_parameters())
    held = [p for group in like.param_groups for p in group["params"]]
    memo: dict[int, Any] = {id(p): new.get(names.get(id(p), ""), p) for p in held}
    memo[id(like.state)] = type(like.state)(dict)
    made: Optimizer = copy.deepcopy(like, memo)
    for name, value in vars(like).items():
        if name not in vars(made) and name not in _LEFT:
            setattr(made, name, copy.deepcopy(value, memo))
    return made


def schedule_for(optimizer: Optimizer, like: LRScheduler, of: Optimizer) -> LRScheduler:
    """The schedule as it stands now, on an optimizer that was made like its own."""
    made: LRScheduler = copy.deepcopy(like, {id(of): optimizer})
    rates = [group["lr"] for group in optimizer.param_groups]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        LambdaLR(optimizer, lambda _: 1.0)  # so that its steps are counted; it is not kept
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    return made


def names_of(model: nn.Module) -> dict[int, str]:
    """The name of each parameter, by its id."""
    found: Mapping[str, Tensor] = dict(model.named_parameters())
    return {id(parameter): name for name, parameter in found.items()}
