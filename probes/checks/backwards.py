"""LBL011: targets that stand in the reverse order of the outputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict, resting_on
from probes.scoring.backwards import Backwards, backwards


@dataclass(frozen=True, slots=True)
class BackwardTargets:
    """The loss makes targets of numbers along time, and they stand in reversed order.

    Returns are collected from the end, and were not put back; or a sequence is flipped, and not
    the outputs. The key's numbers are changed at one place after the other, and so is what the
    output reads: the places where the loss's gradient moves must not walk from the end to the start
    while the places where the output moves walk from start to end. An output that reads everything
    at every place may be asked for the reverse, and is silence, as is one that reads it reversed.

    Sick: `for r in reversed(rewards): returns.append(running := r + gamma * running)`.
    Healthy: the same, and `returns.reverse()`.
    """

    code: ClassVar[str] = "LBL011"
    rule: ClassVar[str] = "reversed-targets"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A loss."""
        return experiment.lacks_loss

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a key."""
        yield from (self._finding(experiment, each) for each in backwards(experiment))

    def _finding(self, experiment: Experiment, each: Backwards) -> Finding:
        first, last = each.moved
        span = f"at place {first}" if first == last else f"from place {first} to {last}"
        by = f"; `{each.op}` lays them out so" if each.op else ""
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"`{each.site}` is scored against targets in reversed order: `{each.key}` at "
            f"place {each.place} moves targets {span}, and the later the place, the earlier the "
            f"target, while the output reads `{each.read}` at its own place{by}.",
            fix="Put back into order what was collected walking backwards, by `reverse()`, "
            "`insert(0, ...)` or `flip`; or flip the outputs as well.",
            site="<loss>",
            phase="forward",
            source=each.line,
            where={"time": each.place},
            evidence=(Evidence(f"place of `{each.key}` that was changed", each.place),),
        )
        declared = each.key in experiment.declared.axes
        axes = ("sample", "time", "feature")[: experiment.tensors[each.key].ndim]
        return resting_on(finding, [] if declared else [f"axes={{{each.key!r}: {axes!r}}}"])
