"""STA012: a state of several parts, of which one is cleared and another carried on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.states.in_part import InPart, in_part
from probes.states.life import Life
from probes.states.recurrence import Recurrent


@dataclass(frozen=True, slots=True)
class HalfCleared:
    """For some rows one part of a state begins anew, and another is carried on.

    The parts are h and c of an LSTM, and the layers of a state that holds several. In one forward
    pass in evaluation mode, a part starts from what the call before gave, but for some rows of
    some calls, where it is zeros, or another row that is always the same; and another part starts
    from what the call before gave in all of them, so that what was to be forgotten is remembered
    by it. A part that is cleared to the end of the row, as on padding, has no memory to lose, and
    modules of their own may be cleared each at its own time, as those of words and sentences.

    Sick: `h = h * keep; h, c = cell(x, (h, c))`.
    Healthy: `h, c = cell(x, (h * keep, c * keep))`.
    """

    fewest: int = 2  # rows that are cleared, and go on from there

    code: ClassVar[str] = "STA012"
    rule: ClassVar[str] = "half-cleared"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A module with a state of several parts, and samples."""
        if experiment.size < 2:
            return "the batch holds less than two samples"
        if not any(each.parts and len(each.calls) > 2 for each in experiment.recurrent):
            return "no recurrent module is called several times"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a module."""
        suspect = {each.site for each in experiment.recurrent if in_part(each) is not None}
        for each in Life(experiment).evaluating(experiment.batch) if suspect else ():
            found = in_part(each) if each.site in suspect else None
            if found is not None and found.again >= self.fewest:
                yield self._finding(each, found, _flag(experiment, found))

    def _finding(self, each: Recurrent, found: InPart, flag: str | None) -> Finding:
        anew, kept = (_named(each, found, part) for part in (found.anew, found.kept))
        (call, sample), rows = found.first, int(found.rows.sum())
        by = f" by `{flag}`" if flag is not None else ""
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"the state of `{each.site}` is cleared in part: {rows} times a row's {anew} "
            f"begins anew{by}, and its {kept} goes on from the call before, such as sample "
            f"{sample}'s in call {call}: what came before is not forgotten.",
            fix=f"Clear the {kept} where the {anew} is cleared.",
            site=each.site,
            phase="forward",
            source=found.source,
            samples=(sample,),
            where={"sample": sample, "time": call},
            evidence=(Evidence(f"rows whose {kept} goes on where its {anew} is cleared", rows, 0),),
        )


def _named(each: Recurrent, found: InPart, part: tuple[int, int]) -> str:
    number, layer = part
    of = f" of layer {layer}" if found.layers > 1 else ""
    if number >= 2 or each.parts > 2:
        return f"part {number} of the state{of}"
    return each.part(number) + of


def _flag(experiment: Experiment, found: InPart) -> str | None:
    """The key of two values, (sample, place), that says which rows are cleared when."""
    rows = found.rows.T
    for key, tensor in experiment.tensors.items():
        if tensor.ndim != 2 or tensor.shape != (len(rows), rows.shape[1] + 1):
            continue
        flags = tensor == tensor.max()
        for said in (flags[:, 1:], flags[:, :-1]):
            if len(torch.unique(tensor)) == 2 and (
                torch.equal(said, rows) or torch.equal(~said, rows)
            ):
                return key
    return None
