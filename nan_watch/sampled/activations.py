"""Which units of an activation's output let no gradient through, whatever the sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

DEAD, SATURATED = "dead_share", "saturated_share"
NEARLY = 0.99  # of the way to its end: tanh' and sigmoid' are at 2 % and 1 % of their largest
TINY = 1e-6  # GELU and SiLU come down to it at inputs of -5 and -17

OF_TRANSFORMERS = ("GELUActivation", "NewGELUActivation", "FastGELUActivation", "SiLUActivation")

Axes = list[int]


@dataclass(frozen=True, slots=True)
class Activation:
    """stat: what is counted. closed: (unit,) from an output and all its axes but the units'."""

    stat: str
    closed: Callable[[Tensor, Axes], Tensor]


def activation(module: nn.Module) -> Activation | None:
    """What is to be counted of the module's units; None where it is no activation of these."""
    if isinstance(module, (nn.ReLU, nn.ReLU6)):
        return Activation(DEAD, _never_open)
    smooth = isinstance(module, (nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish))
    if smooth or type(module).__name__ in OF_TRANSFORMERS:
        return Activation(DEAD, _far_below)
    if isinstance(module, nn.Tanh):
        return Activation(SATURATED, _beyond(-1.0, 1.0, NEARLY))
    if isinstance(module, nn.Sigmoid):
        return Activation(SATURATED, _beyond(0.0, 1.0, NEARLY))
    if isinstance(module, nn.Hardsigmoid):
        return Activation(SATURATED, _beyond(0.0, 1.0, 1.0))
    if isinstance(module, nn.Hardtanh):
        return Activation(SATURATED, _beyond(float(module.min_val), float(module.max_val), 1.0))
    return None


def _never_open(out: Tensor, axes: Axes) -> Tensor:
    return out.amax(axes) <= 0


def _far_below(out: Tensor, axes: Axes) -> Tensor:
    """An input of 0 gives 0 too, and is alive: but from far below it comes as -0 or less."""
    return ((out > -TINY) & torch.signbit(out)).to(torch.uint8).amin(axes) > 0


def _beyond(low: float, high: float, share: float) -> Callable[[Tensor, Axes], Tensor]:
    middle, half = (low + high) / 2, (high - low) / 2

    def closed(out: Tensor, axes: Axes) -> Tensor:
        return (out - middle).abs().amin(axes) >= share * half

    return closed
