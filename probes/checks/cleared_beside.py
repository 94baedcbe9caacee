"""STA011: a state is cleared beside where an episode begins: a step too late, or too early."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.states.cleared import Cleared, begins, cleared


@dataclass(frozen=True, slots=True)
class ClearedBeside:
    """Flags of where episodes begin cut off what a recurrence remembers too late, or too early.

    A flag marks beginnings where all rows of the first batches begin with it. Everything up to a
    place is changed, and the outputs behind it are looked at: where episodes begin, none may move.
    Told where, in all samples and at all places tried, the memory ends after each flagged step, or
    before the step that comes before it, and outputs at flagged steps move with the episode
    before. Flags of an episode's end, as `done`, do not begin all rows, and clear what comes after
    them on purpose; flags that only are an input cut nothing off.

    Sick: `out = cell(x[:, t], h); h = out * ~first[:, t, None]`.
    Healthy: `h = cell(x[:, t], h * ~first[:, t, None])`.
    """

    fewest: int = 2  # boundaries of each kind

    code: ClassVar[str] = "STA011"
    rule: ClassVar[str] = "cleared-beside-the-start"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Flags, and outputs that repeat."""
        if experiment.size < 2 or not any(True for _ in begins(experiment)):
            return "no key of two values marks where episodes begin, as that all rows begin with"
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
        key, late = found.begins.key, found.side == "after"
        flag = f"`{key}` is {found.begins.value:g}"
        steps = [each for each in experiment.recurrent if each.is_step]
        told = (
            "a step late: the first step of an episode still reads the one before, and is itself "
            "forgotten right after it"
            if late
            else "a step early: the last step of an episode has forgotten it, and the next episode "
            "reads that step"
        )
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"the state is cleared {told}. {flag} where each row begins, and at "
            f"{found.kept} of the beginnings tried the output moves with what stands before, such "
            f"as sample {found.sample}'s at place {found.place}.",
            fix=f"Clear the state by `{key}[:, t]` before step t is taken, and not "
            + ("after it." if late else "by the flag of the step that follows."),
            site=steps[0].site if steps else "model",
            phase="forward",
            source=steps[0].calls[0].source if steps else None,
            samples=(found.sample,),
            where={"sample": found.sample, "time": found.place},
            evidence=(
                Evidence("beginnings at which nothing is cleared", found.kept, 0),
                Evidence("steps beside them at which all is cleared", found.ends, 0),
            ),
        )
