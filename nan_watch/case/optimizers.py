"""What is known of an optimizer from the outside: whose it is, and whether its settings are odd."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

LARGE = 1e4  # a rate, a decay or a momentum that no training has
TINIEST = torch.finfo(torch.float16).tiny
FACTORS = ("lr", "weight_decay", "momentum")


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting of one group of an optimizer's parameters."""

    group: int
    key: str
    value: float


def is_own(optimizer: Optimizer) -> bool:
    """Whether its step is not one of torch's."""
    return not type(optimizer).step.__module__.startswith("torch.optim.")


def is_plain(optimizer: Optimizer) -> bool:
    """Whether its step is torch's, and needs nothing but the gradients that are there."""
    return not is_own(optimizer) and not isinstance(optimizer, LBFGS)


def settings(optimizer: Optimizer) -> Iterator[Setting]:
    """Every setting that is a number which can be read at no cost."""
    for number, group in enumerate(optimizer.param_groups):
        for key, value in group.items():
            if isinstance(value, float) or _is_number(value):
                yield Setting(number, key, float(value))


def odd_setting(optimizer: Optimizer) -> Setting | None:
    """The first setting that is not finite, where there is one."""
    return next((each for each in settings(optimizer) if not math.isfinite(each.value)), None)


def is_extreme(optimizer: Optimizer) -> bool:
    """Whether a setting is not finite, or so large that a step with it may overflow."""
    return any(
        not math.isfinite(each.value) or (each.key in FACTORS and abs(each.value) > LARGE)
        for each in settings(optimizer)
    )


def vanishing(optimizer: Optimizer) -> Iterator[tuple[float, list[Tensor]]]:
    """Every eps that is zero in the dtype of parameters of its group, with these.

    Fused kernels compute in float32, whatever the parameters are held in. What an eps of 0 means
    that is given to an optimizer of somebody's own is not known.
    """
    own = is_own(optimizer)
    for group in optimizer.param_groups:
        eps = group.get("eps")
        if not isinstance(eps, (int, float)) or eps > TINIEST or (own and eps == 0):
            continue
        computed = torch.float32 if group.get("fused") else None
        kinds = {parameter.dtype for parameter in group["params"]}
        small = {dtype for dtype in kinds if _is_nothing(eps, computed or dtype)}
        if small:
            yield float(eps), [each for each in group["params"] if each.dtype in small]


@functools.cache
def _is_nothing(eps: float, dtype: torch.dtype) -> bool:
    return dtype.is_floating_point and float(torch.tensor(eps, dtype=dtype, device="cpu")) == 0


def _is_number(value: Any) -> bool:
    number = isinstance(value, Tensor) and value.numel() == 1 and value.device.type == "cpu"
    return number and value.is_floating_point()
