"""STA011: a state is cleared beside where an episode begins: too late, too early, or elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.states.cleared import Cleared, begins, cleared

TOLD = {
    "after": "a step late: the first step of an episode still reads the one before, and is itself "
    "forgotten right after it",
    "before": "a step early: the last step of an episode has forgotten it, and the next episode "
    "reads that step",
    "inverted": "within the episodes and kept where one begins, as if the flag said its opposite",
}


@dataclass(frozen=True, slots=True)
class ClearedBeside:
    """Flags of where episodes begin or end cut off what a recurrence remembers beside that place.

    A flag marks beginnings where all rows of the first batches begin with it. It marks ends, as
    `done`, where none does, and the steps behind flagged ones are like the first of a row, and
    flagged and other steps are not. Everything up to a place is changed, and the outputs behind it
    are looked at: where episodes begin, none may move. Told where, in all samples and at all places
    tried, the memory ends after the first step of each episode, or before the last of the one
    before, and outputs at first steps move with the episode before. Or where it ends at every other
    step, and at these not, while flagged steps look like the first ones of rows: the flag stands
    for its opposite. Flags that only are an input cut nothing off; of flags that may be of either
    kind nothing is said. Rows may stand on the second axis, where the first is read in order.

    Sick: `out = cell(x[:, t], h); h = out * ~first[:, t, None]`; `cell(x[:, t], h * first[:, t])`.
    Healthy: `h = cell(x[:, t], h * ~first[:, t, None])`; `cell(x[:, t], h * ~done[:, t - 1])`.
    """

    fewest: int = 2  # boundaries of each kind

    code: ClassVar[str] = "STA011"
    rule: ClassVar[str] = "cleared-beside-the-start"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Flags, and outputs that repeat."""
        if experiment.size < 2 or not begins(experiment):
            return "no key of two values is known to mark where episodes begin or end"
        if experiment.is_random:
            return "outputs are drawn by chance"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a key."""
        for flag in begins(experiment):
            found = cleared(experiment, flag)
            if found is not None and min(found.ends, found.kept) >= self.fewest:
                yield self._finding(experiment, found)

    def _finding(self, experiment: Experiment, found: Cleared) -> Finding:
        key, ends = found.begins.key, found.begins.ends
        flag = f"`{key}` is {found.begins.value:g}"
        marks = (
            f"{flag} where an episode ends: the step behind is like the first of a row"
            if ends
            else f"{flag} where each row begins"
        )
        steps = [each for each in experiment.recurrent if each.is_step]
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"the state is cleared {TOLD[found.side]}. {marks}, and at "
            f"{found.kept} of the beginnings tried the output moves with what stands before, such "
            f"as sample {found.sample}'s at place {found.place}.",
            fix=_fix(found),
            site=steps[0].site if steps else "model",
            phase="forward",
            source=steps[0].calls[0].source if steps else None,
            samples=(found.sample,),
            where={"sample": found.sample, "time": found.place},
            evidence=(
                Evidence("beginnings at which nothing is cleared", found.kept, 0),
                Evidence(
                    "other steps at which all is cleared"
                    if found.side == "inverted"
                    else "steps beside them at which all is cleared",
                    found.ends,
                    0,
                ),
            ),
        )


def _fix(found: Cleared) -> str:
    key, late = found.begins.key, found.side == "after"
    flag = f"`{key}[t]`" if found.begins.turned else f"`{key}[:, t]`"
    if found.side == "inverted":
        does = "ends" if found.begins.ends else "begins"
        return (
            f"Clear the state where {flag} says that an episode {does}, and keep it elsewhere: its "
            "factor is the flag's opposite, such as `1 - flag`."
        )
    if found.begins.ends:
        return f"Clear the state by {flag} after step t is taken, and not " + (
            "by the flag of the step before." if late else "before it."
        )
    return f"Clear the state by {flag} before step t is taken, and not " + (
        "after it." if late else "by the flag of the step that follows."
    )
