"""What is left of the loss by numbers that the output cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.batch import leaves
from probes.experiment import copied
from probes.scoring.asks import Asked, Asks
from probes.subject import Batch, Subject
from probes.undisturbed import undisturbed


@dataclass(frozen=True, slots=True)
class Reach:
    """The least that the loss can be: each output as near to its label as it can come.

    beyond, count: how many labels are out of reach, of how many. op: what gives the outputs, and
    gives: which numbers. source: the line that asks.
    """

    loss: float
    beyond: int
    count: int
    op: str
    gives: str
    source: str | None = None


def reach(subject: Subject, batches: Sequence[Batch]) -> Reach | None:
    """What it comes to over the batches; None where no label is out of reach."""
    total, found = 0.0, list[Asked]()
    for batch in batches:
        own = copied(batch)
        known = {each.data_ptr() for each in leaves(own).values() if isinstance(each, Tensor)}
        with undisturbed(subject.model), torch.enable_grad(), Asks(known, best=True) as asks:
            total += float(subject.loss(subject.model, own).detach()) / len(batches)
        found += asks.found
    lost = [int(each.given.beyond(each.wanted).sum()) for each in found]
    if not any(lost):
        return None
    first = found[next(i for i, each in enumerate(lost) if each)]
    count = sum(each.wanted.numel() for each in found)
    return Reach(total, sum(lost), count, first.given.op, str(first.given), first.source)
