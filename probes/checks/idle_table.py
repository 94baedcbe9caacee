"""WIR023: a table that the model reads, and that changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from probes.compare import Baseline, Difference, gap
from probes.execution import Ran
from probes.experiment import LOSS, Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.reading.tables import Table, tables, unfelt
from probes.vary import vary


@dataclass(frozen=True, slots=True)
class IdleTable:
    """Other values in a table that the model holds, as of positions, never move the loss.

    A table is a buffer, or a frozen weight that is looked up, of several rows. It leads to the
    loss, by its gradient, and that is all zeros; with other values what samples have after it is
    another, and the loss stays the same to the bit, in evaluation mode and in training: what it
    gives reaches only places where nobody looks, such as padding, under a mask the wrong way
    round. Zero weights are replaced to see that, since they let nothing through at the start. What
    a training step writes, and a branch that is at rest as a whole, are left out.

    Sick: `x + positions[:t] * padding[..., None]`, where `padding` is true on padding.
    Healthy: `x + positions[:t] * ~padding[..., None]`.
    """

    code: ClassVar[str] = "WIR023"
    rule: ClassVar[str] = "idle-table"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A table, and a loss that repeats."""
        if not any(True for _ in tables(experiment.subject.model)):
            return "the model holds no table of numbers that is not learned"
        if experiment.evaluated.noise:
            return "the loss does not repeat"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """One finding a table."""
        buffers = experiment.subject.model.named_buffers()
        written = {id(buffer) for name, buffer in buffers if name in experiment.stepped.buffers}
        known = [one for one in tables(experiment.subject.model) if id(one.values) not in written]
        for table in unfelt(experiment, known):
            after = self._after(experiment, table)
            if after is not None:
                yield self._finding(table, after)

    def _after(self, experiment: Experiment, table: Table) -> Difference | None:
        """The first value of samples, after its own module, that others move, but not the loss."""
        other = vary(table.values, torch.ones_like(table.values, dtype=torch.bool))
        if other is None:
            return None

        def run(baseline: Baseline) -> Ran:
            return baseline.run(experiment.batch, before=lambda: table.put(other))

        ran = run(experiment.evaluated)
        if _moved(experiment.evaluated, ran) or _moved(experiment.trained, run(experiment.trained)):
            return None
        sites = experiment.evaluated.against(ran, axes=experiment.axes).sites
        after = (each for each in sites if each.module != table.module and "sample" in each.where)
        return next(after, None)

    def _finding(self, table: Table, after: Difference) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{table.path}` is read and changes nothing that the loss looks at: with "
            f"other values in it `{after.site}` differs, and the loss is the same to the bit.",
            fix="Look for a mask that is the wrong way round where it is added, or an index that "
            "puts it on padding alone.",
            site=table.module,
            phase="forward",
            where=dict(after.where),
            evidence=(
                Evidence("largest change of the loss", 0.0),
                Evidence(f"largest change at `{after.site}`", after.largest, after.limit),
            ),
        )


def _moved(baseline: Baseline, ran: Ran) -> bool:
    """Whether the loss is another, or there is none to compare."""
    before, after = baseline.ran.outputs.get(LOSS), ran.outputs.get(LOSS)
    return before is None or after is None or gap(before, after)[0] > 0
