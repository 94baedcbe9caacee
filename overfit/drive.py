"""What an optimizer did in a suite: the steps it took, its rates, and its weight decay."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from nan_watch.scaling import Scalers

GONE = 0.01  # of the largest rate


@dataclass(frozen=True, slots=True)
class Drive:
    """What drove a suite's weights, or did not.

    calls: of the training step. taken: steps that the optimizer was asked for. skipped: those of
    them that a GradScaler skipped; overflowed: the first parameter whose gradient was not finite
    in the newest of these; scale: the loss's there.
    rate: the largest learning rate, or what the optimizer was given where a schedule kept it under
    that. last: of the last step. usual: the median of all steps. gone: the first step from which on
    no rate was above 1 % of it.
    proportional: whether a step is as large as the gradient, and not divided by its size.
    forgets: the share that decay takes of the weights in a step. decayed: the norm of what decay
    adds to the gradient, where it does; gradient: the norm of that; energy: what the decay adds
    to the loss, half the decay times the squared norm of the weights.
    """

    calls: int
    taken: int
    skipped: int = 0
    overflowed: str | None = None
    scale: float | None = None
    rate: float | None = None
    last: float | None = None
    usual: float | None = None
    proportional: bool = False
    gone: int | None = None
    decay: float = 0.0
    forgets: float = 0.0
    decayed: float | None = None
    gradient: float | None = None
    energy: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """As a suite's settings hold it."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Drive:
        """What `as_json` wrote."""
        return cls(**row)


def rate_of(optimizer: Optimizer) -> float:
    """The largest learning rate of its groups; 1 of one that knows no rate."""
    return max((float(group.get("lr", 1.0)) for group in optimizer.param_groups), default=1.0)


def drive_of(
    optimizer: Optimizer, rates: Sequence[float], calls: int, taken: int, scalers: Scalers
) -> Drive:
    """Over calls with these rates, of which the optimizer has taken so many steps."""
    groups = optimizer.param_groups
    given = max([*rates, *(float(group.get("initial_lr", 0.0)) for group in groups)], default=0.0)
    newest = scalers.skipped[-1] if scalers.skipped else None
    gone = next((i + 1 for i in range(len(rates))[::-1] if rates[i] > GONE * given), 0)
    return Drive(
        calls=calls,
        taken=taken,
        skipped=scalers.count,
        overflowed=newest.parameters[0] if newest and newest.parameters else None,
        scale=newest.scale if newest else None,
        rate=given,
        last=rates[-1] if rates else None,
        usual=median(rates) if rates else None,
        proportional=_is_proportional(optimizer),
        gone=gone if gone < len(rates) else None,
        **_decay(optimizer, max(rates, default=0.0)),
    )


def _is_proportional(optimizer: Optimizer) -> bool:
    """Whether it keeps nothing of the gradients but a momentum."""
    kept = {key for state in optimizer.state.values() for key in state}
    return "lr" in optimizer.defaults and kept <= {"momentum_buffer"}


def _decay(optimizer: Optimizer, rate: float) -> dict[str, Any]:
    """Of the group with the largest decay."""
    groups = [each for each in optimizer.param_groups if each.get("weight_decay")]
    if not groups:
        return {}
    group = max(groups, key=lambda each: float(each["weight_decay"]))
    held = [p for p in group["params"] if p.requires_grad]
    decay, size = float(group["weight_decay"]), _norm(held)
    apart = "AdamW" in type(optimizer).__name__ or bool(group.get("decoupled_weight_decay"))
    return {
        "decay": decay,
        "forgets": rate * decay if apart or "SGD" in type(optimizer).__name__ else 0.0,
        "decayed": None if apart else decay * size,
        "gradient": None if apart else _norm([p.grad for p in held if p.grad is not None]),
        "energy": 0.0 if apart else decay * size**2 / 2,
    }


def _norm(tensors: Sequence[Tensor]) -> float:
    parts = (float(each.detach().to_dense().double().square().sum()) for each in tensors)
    return math.sqrt(sum(parts))
