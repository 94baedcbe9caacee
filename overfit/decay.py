"""Whether an optimizer takes its decay off the weights themselves, or adds it to gradients."""

from __future__ import annotations

import math

import torch

from probes.subject import Subject

SAME = 0.1  # of the share that rate and decay make


def is_direct(subject: Subject) -> bool | None:
    """Whether a step without any gradient takes the rate times the decay off every weight.

    So it is in AdamW, Lion and SGD, where the decay passes no normalising; in Adam it goes the way
    of the gradients. Measured by a fresh optimizer; weights and gradients are as before. None
    where nothing decays, and of a subject that steps by itself.
    """
    if subject.train_step is not None:
        return None
    optimizer = subject.optimizer(subject.model)
    groups = [each for each in optimizer.param_groups if each.get("weight_decay")]
    if not groups:
        return None
    group = max(groups, key=lambda each: float(each["weight_decay"]))
    every = [each for some in optimizer.param_groups for each in some["params"]]
    kept = [(each, each.detach().clone(), each.grad) for each in every]
    try:
        for each in every:
            each.grad = torch.zeros_like(each)
        optimizer.step()
        moved = size = 0.0
        for each, before, _ in kept:
            if any(each is own for own in group["params"]):
                moved += float(((before - each.detach()) * before).double().sum())
                size += float(before.double().square().sum())
    finally:
        with torch.no_grad():
            for each, before, grad in kept:
                each.copy_(before)
                each.grad = grad
    share = float(group["lr"]) * float(group["weight_decay"])
    return math.isclose(moved, share * size, rel_tol=SAME) if size * share > 0 else None
