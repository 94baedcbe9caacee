"""Losses that the code multiplies by the number 0: what is switched off is nothing to learn."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from probes.scoring.calls import Call, Scoring
from probes.subject import Batch, Subject
from probes.times_zero import parted
from probes.undisturbed import undisturbed


def switched_on(
    subject: Subject, batch: Batch, calls: Sequence[Call], training: bool = False
) -> list[Call]:
    """The calls, without those whose scores the loss takes times the number 0 alone.

    As they are where the loss cannot be followed, and where none would be left.
    """
    if len(calls) < 2:
        return list(calls)
    try:
        with undisturbed(subject.model, training), torch.enable_grad(), Scoring() as scoring:
            total = subject.loss(subject.model, batch)
    except Exception:  # a loss of the user's own making may not stand it
        return list(calls)
    if len(scoring.calls) != len(calls):
        return list(calls)
    zeroed = parted([total])[1]
    pairs = zip(calls, scoring.calls, strict=True)
    return [call for call, again in pairs if again.given.grad_fn not in zeroed] or list(calls)
