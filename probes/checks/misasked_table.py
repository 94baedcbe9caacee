"""WIR034: a table that is looked up by ids of another one, while its own are read by nobody."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.modules import every_module
from probes.reading.own_tables import Misasked, misasked


@dataclass(frozen=True, slots=True)
class MisaskedTable:
    """A table is looked up by ids that another table is made for, and nobody reads its own.

    Ids of the batch, or a column of them, move neither loss nor outputs, and over the first
    batches they reach just to the end of a table, all of whose look-ups are of other ids. Those
    reach only a part of its rows, and just to the end of another table, that is looked up by them
    as well. Tables of one size that share their ids, as vectors and biases of the same items, are
    meant so; a key that is not read, and that no table fits, is a note of WIR007's.

    Sick: `self.genres(batch["genre"]) + self.hours(batch["genre"])`.
    Healthy: `self.genres(batch["genre"]) + self.hours(batch["hour"])`.
    """

    code: ClassVar[str] = "WIR034"
    rule: ClassVar[str] = "misasked-table"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """The loss."""
        return experiment.lacks_loss

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """One finding a table."""
        root = next(every_module(experiment.subject.model))[0]
        for found in misasked(experiment):
            yield self._finding(found, root)

    def _finding(self, found: Misasked, root: str) -> Finding:
        table, own, asked = found.table, found.own, found.asked
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{table.name}` is looked up by {asked}, as `{own.name}` is, and nobody reads "
            f"{found.unread}, whose ids fit it: {asked} fills the {own.rows} rows of "
            f"`{own.name}`, and asks for none of the {table.rows} of `{table.name}` from "
            f"{found.reach} on; {found.unread} goes up to {found.wanted - 1}.",
            fix=f"Look `{table.name}` up by {found.unread}.",
            site=table.name.rpartition(".")[0] or root,
            op="aten.embedding",
            phase="forward",
            source=table.line,
            evidence=(
                Evidence(f"rows of `{table.name}` that can be asked for", found.reach, table.rows),
                Evidence(f"largest effect of changing {found.unread}", 0.0),
            ),
        )
