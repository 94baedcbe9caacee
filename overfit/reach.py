"""What is left of the loss by numbers that the output cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.batch import leaves
from probes.experiment import copied
from probes.scoring.asks import Asked, Asks, out_of_reach
from probes.subject import Batch, Subject
from probes.undisturbed import undisturbed


@dataclass(frozen=True, slots=True)
class Reach:
    """The least that the loss can be: each output as near to its label as it can come.

    beyond, count: how many labels are out of reach, of how many. op: what gives the outputs, and
    gives: which numbers. source: the line that asks. scaled: the line that scales what the operator
    gives, where one does.
    """

    loss: float
    beyond: int
    count: int
    op: str
    gives: str
    source: str | None
    scaled: str | None = None


def reach(subject: Subject, batches: Sequence[Batch]) -> Reach | None:
    """What it comes to over the batches; None where no label is out of reach."""
    total, found = 0.0, list[tuple[Asked, int]]()
    for batch in batches:
        first, loss = _run(subject, batch)
        lost = list(out_of_reach(first.found, loss))
        found += [(each, int(beyond.sum())) for _, each, beyond in lost]
        _, best = _run(subject, batch, [i for i, _, _ in lost])
        total += float(best.detach()) / len(batches)
    told = next((each for each, lost_of in found if lost_of), None)
    if told is None:
        return None
    count = sum(each.wanted.numel() for each, _ in found)
    beyond = sum(lost_of for _, lost_of in found)
    of = told.given
    return Reach(total, beyond, count, of.op, str(of), told.source, of.scaled)


def _run(subject: Subject, batch: Batch, best: Sequence[int] = ()) -> tuple[Asks, Tensor]:
    own = copied(batch)
    known = {each.data_ptr() for each in leaves(own).values() if isinstance(each, Tensor)}
    with undisturbed(subject.model), torch.enable_grad(), Asks(known, subject.model, best) as asks:
        loss = subject.loss(subject.model, own)
    return asks, loss
