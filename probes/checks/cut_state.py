"""STA003: no gradient flows from one step of a recurrence to the step before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

from torch import nn

from probes.checks.still_state import declared
from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict, resting_on
from probes.layout import State
from probes.states.recurrence import Call, Recurrent, equal, flows


@dataclass(frozen=True, slots=True)
class CutState:
    """The state is carried from step to step as numbers, and its gradient is not.

    In one forward pass of the loss, each call of a cell starts from what the call before gave,
    and yet no gradient comes back from there: what an early step must keep for a late one is
    never learned. To detach every few steps is truncated backpropagation and is healthy, and so
    is to detach between longer pieces, which is a note. Where the layout declares
    `State(site, detached=True)`, it is the gradient that does flow that is a fault.

    Sick: `for x in inputs: h = cell(x, h.detach())`.
    Healthy: `for x in inputs: h = cell(x, h)`.
    """

    most: int = 8  # pairs of calls that are looked at
    fewest: int = 2

    code: ClassVar[str] = "STA003"
    rule: ClassVar[str] = "state-gradient-cut"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A recurrent module that is called twice."""
        called = any(len(calls) > 1 for each in experiment.recurrent for calls in each.groups())
        return None if called else "no recurrent module is called step by step"

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a module."""
        for each in experiment.recurrent:
            state, trained = declared(experiment, each.site), _is_trained(each.module)
            for part in range(each.parts):
                pairs = self._carried(each, part)
                flown = [
                    flows(a.after(each.parts)[part].live, b.before[part].live) for a, b in pairs
                ]
                if not pairs or not trained:
                    continue
                if state is not None and state.detached and all(flown):
                    yield self._flows(each, part, len(pairs), pairs[0][1].source)
                    break
                if any(flown) or (state is not None and state.detached):
                    continue
                if len(pairs) >= self.fewest or state is not None:
                    yield self._cut(each, part, len(pairs), state, pairs[0][1].source)
                    break

    def _carried(self, each: Recurrent, part: int) -> list[tuple[Call, Call]]:
        """Calls that start from what the call before gave, where that has a gradient."""
        found = []
        for calls in each.groups():
            for one, two in pairwise(calls):
                gave = one.after(each.parts)
                if len(two.before) <= part or len(gave) <= part:
                    continue
                if gave[part].live.requires_grad and equal(
                    two.before[part].value, gave[part].value
                ):
                    found.append((one, two))
        return found[: self.most]

    def _cut(
        self, each: Recurrent, part: int, count: int, state: State | None, source: str | None
    ) -> Finding:
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL
            if state is not None
            else Verdict.WARN
            if each.is_step
            else Verdict.NOTE,
            message=f"the {each.part(part)} of `{each.site}` is carried from call to call and "
            f"detached each time: of {count} calls that start from what the call before gave, "
            "none has a gradient there.",
            fix="Take away `.detach()`, `.data` or `no_grad` between the steps of one sequence.",
            site=each.site,
            phase="backward",
            source=source,
            where={"time": 1},
            evidence=(Evidence("calls with a gradient to the call before", 0, count),),
        )
        line = f"states=({State(each.site, detached=True)!r},)"
        return resting_on(finding, [] if state is not None else [line])

    def _flows(self, each: Recurrent, part: int, count: int, source: str | None) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"the {each.part(part)} of `{each.site}` is declared to be detached, and in "
            f"all of {count} calls its gradient flows to the call before.",
            fix="Detach it between the calls, or take `detached=True` out of its `State`.",
            site=each.site,
            phase="backward",
            source=source,
            where={"time": 1},
            evidence=(Evidence("calls with a gradient to the call before", count, 0),),
        )


def _is_trained(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())
