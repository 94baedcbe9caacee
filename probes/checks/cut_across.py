"""LBL012: a text goes on from row to row, while each row is asked for its own next id."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, ExperimentError, Finding, Verdict
from probes.scoring.cut_across import CutAcross, cut_across


@dataclass(frozen=True, slots=True)
class TextCutAcross:
    """The next id of a row is asked for, and it is the row above that tells it.

    A text is cut into streams, one a row of the batch, by a view. Laid out the wrong way, what
    follows an id stands in the next row, and what stands beside it comes many places later. Over
    the first batches it is counted which id follows which, along rows and from row to row, and
    tried on others: told is where the id before tells next to nothing beyond chance, and the id
    above much. Where time comes first, the text must go on from the last sample of a time to the
    first of the next as well. Windows that overlap, rows that are copies of each other, voices that
    sound together, and samples that have nothing to do with each other are silence.

    Sick: `data.view(length, rows)` with time along the first axis.
    Healthy: `data.view(rows, length).t()`.
    """

    code: ClassVar[str] = "LBL012"
    rule: ClassVar[str] = "text-cut-across"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A loss."""
        return experiment.lacks_loss

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a key of ids."""
        with suppress(ExperimentError):
            yield from (self._finding(each) for each in cut_across(experiment))

    def _finding(self, each: CutAcross) -> Finding:
        along, across, chance = (
            f"{100 * share:.0f}%" for share in (each.along, each.across, each.chance)
        )
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=_message(each, along, across, chance),
            fix="Cut the text into streams along time: `data.view(rows, length)`, and then "
            "transpose if time comes first.",
            site="<data>",
            phase="data",
            evidence=(
                Evidence("share of ids that the id before tells", each.along, each.chance),
                Evidence("share of ids that the id above tells", each.across, each.chance),
            ),
        )


def _message(each: CutAcross, along: str, across: str, chance: str) -> str:
    if each.time_first:
        return (
            f"`{each.output}` is asked for the next id of each column of `{each.key}`, but the "
            f"text goes on along the rows, from sample to sample: the id of the sample beside "
            f"tells {across} of the ids, the id a time before {along}, and the commonest id "
            f"{chance}."
        )
    return (
        f"`{each.output}` is asked for the next id of each row of `{each.key}`, but the text goes "
        f"on from row to row: the id above tells {across} of the ids, the id before {along}, and "
        f"the commonest id {chance}."
    )
