"""What an optimizer did in a suite: the steps it took, its rates, and its weight decay."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from inspect import signature
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from nan_watch.scaling import Scalers

GONE = 0.01  # of the largest rate
RAISED = 10.0  # times its default, from which on an eps is what somebody chose
SQUARES = ("max_exp_avg_sq", "exp_avg_sq", "square_avg", "sum")
"""What optimizers call the mean, or the sum, of the squares of the gradients."""


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
    eps: what is added to the size that gradients are divided by, where it is far more than the
    optimizer's own default; swamped: the share of a step that it leaves, in the median place.
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
    eps: float | None = None
    swamped: float | None = None

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
        **eps_of(optimizer),
    )


def _is_proportional(optimizer: Optimizer) -> bool:
    """Whether it keeps nothing of the gradients but a momentum."""
    kept = {key for state in optimizer.state.values() for key in state}
    return "lr" in optimizer.defaults and kept <= {"momentum_buffer"}


def eps_of(optimizer: Optimizer) -> dict[str, Any]:
    """`eps` and `swamped` of the group with the largest, that was raised above its default.

    Of optimizers that divide by the root of the gradients' squares: Adam and what is like it,
    RMSprop, Adagrad. Adadelta has it below and above the line, and there it makes no step smaller.
    """
    known = signature(type(optimizer).__init__).parameters.get("eps")
    usual = known.default if known is not None else None
    groups = [each for each in optimizer.param_groups if isinstance(each.get("eps"), float)]
    group = max(groups, key=lambda each: float(each["eps"]), default=None)
    if group is None or (isinstance(usual, float) and group["eps"] <= RAISED * usual):
        return {}
    sizes = [
        root[root > 0]
        for each in group["params"]
        if each in optimizer.state
        for root in [_root(optimizer.state[each], group)]
        if root is not None
    ]
    every = torch.cat(sizes) if sizes else torch.empty(0, device="cpu")
    if not len(every):
        return {}
    size = float(every.median())
    return {"eps": float(group["eps"]), "swamped": size / (size + float(group["eps"]))}


def _root(state: Mapping[str, Any], group: Mapping[str, Any]) -> Tensor | None:
    """(place,) the size that the optimizer divides by, without the eps; None of any other."""
    if "acc_delta" in state:
        return None
    squares = next((state[name] for name in SQUARES if state.get(name) is not None), None)
    if not isinstance(squares, Tensor):
        return None
    past = 0.0
    if "betas" in group and "step" in state:  # its bias is corrected
        past = float(group["betas"][1]) ** float(state["step"])
    return (squares.detach().flatten().float() / max(1 - past, 1e-12)).sqrt().cpu()


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
