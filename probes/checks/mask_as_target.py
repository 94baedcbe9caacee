"""LBL015: what is asked for is what hides the answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.operators.writes import Write, first_write
from probes.scoring.filler import Filler, fillers


@dataclass(frozen=True, slots=True)
class MaskAsTarget:
    """Where the batch is hidden from the model, the loss asks for what hides it.

    To fill in what is missing, a copy is given to the model in which places are written over, and
    the loss asks at these for what stood there. Without the copy, or with targets that are taken
    from it, the model is asked for the very value that it reads, a mask's id or 0, which is soon
    learned and tells nothing. What a module is given is held against the batch, and what the loss's
    gradient asks for against both: scored are some places alone, those that are written over among
    them, and each is asked for what is read there, and not for what the batch holds. Where nothing
    is written over, because the data did so before, it is a warning, and told where all that is
    scored is one value. An autoencoder, asked for all it reads, is none of them, nor is what is
    filled in where it is not scored.

    Sick: `x = ids; x[hidden] = MASK; labels = ids.masked_fill(~hidden, -100)`.
    Healthy: `x = ids.clone()`, and the rest as it is.
    """

    least: int = 20  # places that hold one value, where the data were written over before

    code: ClassVar[str] = "LBL015"
    rule: ClassVar[str] = "mask-as-target"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A loss."""
        return experiment.lacks_loss

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a key."""
        for each in fillers(experiment, self.least):
            write = first_write(experiment, each.key) if each.written else None
            yield self._finding(each, write)

    def _finding(self, each: Filler, write: Write | None) -> Finding:
        reads = f"the model reads of `{each.key}` there"
        asked = f"what {reads}" if each.value is None else f"{each.value:g}, which is what {reads}"
        if write is not None:
            said = f"targets are taken from `{each.key}` after `{write.op}` wrote into it in place"
        else:
            said = "targets are taken from what the model is given, where something hides them"
        held = f"though the batch held something else at {each.written} ({each.others} values)"
        end = held if each.written else "and for nothing else"
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL if each.written else Verdict.WARN,
            message=f"{said}: at all {each.count} places that are scored the loss asks for "
            f"{asked}, {end}.",
            fix=f"Write into a copy, as of `x = {each.key}.clone()`, and take the targets from "
            "what was not written into.",
            site=write.site if write is not None else "<loss>" if each.written else "<data>",
            op=None if write is None else write.op,
            phase="forward" if each.written else "data",
            source=None if write is None else write.source,
            evidence=(
                Evidence("places that are scored", each.count),
                Evidence("of these, places where the batch holds something else", each.written),
            ),
        )
