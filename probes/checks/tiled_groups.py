"""IDX010: a group's number is dealt out to the rows of other groups."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.reading.alive import alive
from probes.scoring.tiled import tiled


@dataclass(frozen=True, slots=True)
class TiledGroups:
    """Rows of a group stand together, and the numbers of all groups are repeated as a whole.

    What is made of each group, as a mean of its rewards, is repeated to as many rows as there are
    and meets them one by one. `repeat` lays copy after copy, so that rows get the numbers of all
    groups in turn; rows that stand together need each number so many times in a row. One group's
    rows are changed: its number must be the one that these rows meet.

    Sick: `(rewards - rewards.view(-1, 4).mean(1).repeat(4))`.
    Healthy: `(rewards - rewards.view(-1, 4).mean(1).repeat_interleave(4))`.
    """

    code: ClassVar[str] = "IDX010"
    rule: ClassVar[str] = "tiled-groups"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A loss in which rows are repeated."""
        if experiment.lacks_loss is not None:
            return experiment.lacks_loss
        return None if alive(experiment).tiled else "no rows are repeated as a whole"

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding."""
        found = tiled(experiment)
        if found is None:
            return
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"a group's number meets rows of other groups: `{found.key}` has "
            f"{found.groups} groups of {found.size} rows that stand together, and a number of each "
            "is repeated as a whole, so that row 1, of group 0, meets that of group 1.",
            fix=f"Repeat each number for its own rows: `repeat_interleave({found.size})`, or keep "
            "the axis of groups and let it broadcast.",
            site="<loss>",
            op=f"aten.{found.op.strip('_')}",
            phase="forward",
            source=found.line,
            evidence=(Evidence("groups", found.groups), Evidence("rows of each", found.size)),
        )
