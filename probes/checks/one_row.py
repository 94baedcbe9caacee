"""WIR030: numbers that vary are cut to whole ones, and look up one and the same row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar, Literal

import torch
from torch import Tensor

from probes.experiment import Experiment, attempted, copied
from probes.finding import Evidence, Finding, Verdict
from probes.operators.cuts import Cuts, Looked, always_one
from probes.replay import Snapshot, replay
from probes.subject import Batch


@dataclass(frozen=True, slots=True)
class OneRow:
    """Numbers that vary are cut to integers, and so look up one row of a table in all batches.

    Such as a time between 0 and 1 that is cut before it is scaled: the table has a row for each
    step, one of them is ever read, and what comes after does not know the time. Followed are
    numbers that hang on no parameter, from where they are cut, by a cast, a rounding or bins, to an
    embedding or an index. Told where `least` different numbers or more of the first `batches`
    batches read one row. Bins that several samples share, and ids that are one in the batch, are
    healthy.

    Sick: `table(t.long() * 63)` of `t = torch.rand(n)`.
    Healthy: `table((t * 63).long())`.
    """

    batches: int = 4
    least: int = 16

    code: ClassVar[str] = "WIR030"
    rule: ClassVar[str] = "one-row"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Nothing."""
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """One finding a look-up."""
        first = list(always_one(experiment.operated.looked))
        if not first:
            return
        known = {_place(every) for every in first}
        looked: list[Looked] = []
        for batch in islice(experiment.subject.batches, self.batches):
            looked += _looked(experiment, batch)
        for every in always_one(looked):
            numbers = torch.cat([each.numbers.flatten() for each in every]).unique()
            if _place(every) in known and len(numbers) >= self.least:
                yield self._finding(every[0], numbers)

    def _finding(self, one: Looked, numbers: Tensor) -> Finding:
        row, low, high = int(one.index.flatten()[0]), float(numbers[0]), float(numbers[-1])
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{one.site}` looks up row {row} of {one.rows} and no other: the numbers that "
            f"are cut to whole ones for it, from {low:.4g} to {high:.4g}, all become the same.",
            fix="Scale the numbers first and cut them then, as by `(t * rows).long()`.",
            site=one.site,
            op=one.op,
            phase="forward",
            where={"row": row},
            source=one.source,
            evidence=(
                Evidence("different numbers before they are cut", len(numbers), self.least),
                Evidence("rows that are read", 1, one.rows),
            ),
        )


def _place(every: Sequence[Looked]) -> tuple[str, str, str | None]:
    return every[0].site, every[0].op, every[0].source


def _looked(experiment: Experiment, batch: Batch) -> list[Looked]:
    """The look-ups of a batch, in evaluation mode."""
    model, cuts = experiment.subject.model, Cuts(experiment.subject.model)

    def step() -> Tensor:
        with attempted("`Subject.loss`, in evaluation mode,"), torch.no_grad():
            experiment.subject.loss(model.eval(), copied(batch))
        return torch.zeros(())

    replay(step, model, Snapshot.take(model), under=[cuts])
    return cuts.looked
