"""IDX012: numbers to be learned that no output can be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from probes.batch import leaves
from probes.experiment import LOSS, Experiment, attempted, copied
from probes.finding import Evidence, Finding, Verdict
from probes.replay import Snapshot, replay
from probes.scoring.asks import Asked, Asks, out_of_reach


@dataclass(frozen=True, slots=True)
class OutOfReach:
    """A loss of numbers asks for some that the operator behind the output cannot give.

    A sigmoid gives 0 to 1, a ReLU nothing below 0; and what is made of these numbers one by one,
    as `10 * x` of a sigmoid's, lies between what is made of the two ends, unless a weight has a
    part in it. Where `share` or more of the labels lie beyond that, by more than rounding, and
    count in the loss, it has a floor that no training passes. Looked at are torch's losses of
    numbers, and differences from what the batch holds that the loss draws towards zero.

    Sick: `F.mse_loss(model(x).sigmoid(), y)` of labels with a mean of 0.
    Healthy: `F.mse_loss(model(x), y)`; the same with labels between 0 and 1.
    """

    share: float = 0.02

    code: ClassVar[str] = "IDX012"
    rule: ClassVar[str] = "out-of-reach"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A loss of numbers."""
        return experiment.lacks_loss

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding, of the first loss of which it is so."""
        for asked, beyond in _asked(experiment):
            count, all_ = int(beyond.sum()), beyond.numel()
            if count >= max(1, self.share * all_):
                yield self._said(asked, count, all_)
                return

    def _said(self, asked: Asked, count: int, all_: int) -> Finding:
        wanted, given = asked.wanted, asked.given
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"{count} of {all_} labels lie out of reach: `{asked.op}` asks for "
            f"{float(wanted.min()):.3g} to {float(wanted.max()):.3g}, and the output comes from "
            f"{given.words.rstrip(',')}, which gives {given}.",
            fix=given.fix,
            site=LOSS,
            op=given.op,
            phase="forward",
            source=given.scaled or asked.source,
            evidence=(Evidence("labels out of reach", count, self.share * all_, f"of {all_}"),),
        )


def _asked(experiment: Experiment) -> list[tuple[Asked, Tensor]]:
    """What is asked of outputs with bounds, each with where it is out of reach and counts."""
    subject, batch = experiment.subject, copied(experiment.batch)
    known = {each.data_ptr() for each in leaves(batch).values() if isinstance(each, Tensor)}
    asks, found = Asks(known, subject.model), list[tuple[Asked, Tensor]]()

    def step() -> Tensor:
        with attempted("`Subject.loss`"), torch.enable_grad():
            loss = subject.loss(subject.model, batch)
        if asks.found and loss.requires_grad:
            found.extend((each, beyond) for _, each, beyond in out_of_reach(asks.found, loss))
        return torch.zeros(())

    replay(step, subject.model, Snapshot.take(subject.model), under=[asks])
    return found
