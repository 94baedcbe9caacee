"""How a step changes the weights: parameter groups, the schedule of the rates, clipping."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from torch import nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from model.config import Config

BERT = "encoder."
"""What the names of BERT's parameters start with."""


def optimizer(config: Config, model: nn.Module) -> Optimizer:
    """Adam over all that is trained, BERT at a rate of its own; what is frozen is left out."""
    groups = [
        {"params": list(_trained(model, bert=False)), "lr": config.lr},
        {"params": list(_trained(model, bert=True)), "lr": config.bert_lr},
    ]
    return Adam([group for group in groups if group["params"]])


def _trained(model: nn.Module, *, bert: bool) -> Iterator[nn.Parameter]:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name.startswith(BERT) == bert:
            yield parameter


def schedule(config: Config, over: Optimizer) -> LRScheduler:
    """Rates that rise from zero over `warmup` steps, then stay, or fall to zero at `steps`."""
    return LambdaLR(over, lambda step: factor(config, step))


def factor(config: Config, step: int) -> float:
    """What the learning rates are multiplied by at this step, counted from 0."""
    if step < config.warmup:
        return (step + 1) / (config.warmup + 1)
    if config.schedule == "constant":
        return 1.0
    falling = max(1, config.steps - config.warmup)
    return max(0.0, (config.steps - step) / falling)


def clipped(config: Config, model: nn.Module) -> list[nn.Parameter]:
    """The parameters whose gradients are clipped together; empty where none are."""
    if config.clip == "none":
        return []
    rest = _trained(model, bert=False)
    if config.clip == "all_but_bert":
        return list(rest)
    return list(chain(rest, _trained(model, bert=True)))
