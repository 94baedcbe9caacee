"""STA004: a step's backward pass runs into the graphs of the steps before."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from probes.ancestry import nodes_behind
from probes.experiment import Experiment
from probes.finding import Evidence, ExperimentError, Finding, Verdict
from probes.states.attributes import Attribute, attributes, holding_graphs, put, written_at
from probes.states.life import Life
from probes.stepping.roots import noted_roots

TWICE = "backward through the graph a second time"
AGAIN = re.compile(f"{TWICE}|modified by an inplace operation")


@dataclass(frozen=True, slots=True)
class CarriedGraph:
    """What is carried from step to step keeps its graph: it was not detached.

    A copy of the model takes the same training step several times. Either the second backward
    pass raises, since the first one's graph is gone, or, where it was retained, the graph behind
    the loss grows with every step, and time and memory with it. The attribute is found by
    detaching one after the other.

    Sick: `out, self.hidden = self.lstm(x, self.hidden)`.
    Healthy: `self.hidden = tuple(part.detach() for part in hidden)`.
    """

    steps: int = 4
    growth: float = 0.05  # of the first step's nodes, by which each further step must add to them

    code: ClassVar[str] = "STA004"
    rule: ClassVar[str] = "graph-carried-over"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Nothing."""
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding."""
        life, counts = Life(experiment), []
        for done in range(self.steps):
            try:
                counts.append(_nodes_of_step(life, experiment))
            except ExperimentError as error:
                again = AGAIN.search(str(error))
                if again is None or (done == 0 and again.group() != TWICE):
                    raise
                yield self._raises(experiment, done, again.group())
                return
            if done and counts[-1] <= counts[-2] + self.growth * counts[0]:
                return
        yield self._grows(experiment, counts)

    def _raises(self, experiment: Experiment, done: int, what: str) -> Finding:
        culprit = next(_cures(experiment, done), None) if done else None
        held = (
            "something outside of the model carries its"
            if culprit is None
            else f"`{culprit.site}` carries its"
        )
        cure = "" if culprit is None else ", and would not were it detached"
        return self._said(
            experiment,
            culprit,
            f"{held} graph into the next step: step {done + 1} on the same batch raises{cure} "
            f"({what}).",
            Verdict.FAIL,
            Evidence("steps that went well", done, self.steps),
        )

    def _grows(self, experiment: Experiment, counts: list[int]) -> Finding:
        culprit = next(_shrinks(experiment, counts), None)
        told = ", ".join(map(str, counts))
        return self._said(
            experiment,
            culprit,
            ("a graph" if culprit is None else f"`{culprit.site}`'s graph")
            + f" is carried from step to step: the loss of the same batch has {told} nodes behind "
            "it in successive steps.",
            Verdict.WARN if culprit is None else Verdict.FAIL,
            Evidence("nodes behind the loss of the last step", counts[-1], counts[0]),
        )

    def _said(
        self,
        experiment: Experiment,
        culprit: Attribute | None,
        message: str,
        verdict: Verdict,
        evidence: Evidence,
    ) -> Finding:
        held = "what is kept" if culprit is None else f"`{culprit.site}`"
        source = None if culprit is None else written_at(experiment.subject.model, culprit)
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=verdict,
            message=message,
            fix=f"Detach {held} between steps, as by `hidden.detach()`; do not retain the graph.",
            site="<loss>" if culprit is None else culprit.site,
            phase="backward",
            source=source,
            evidence=(evidence,),
        )


def _nodes_of_step(life: Life, experiment: Experiment) -> int:
    """One step is taken; returns how many nodes its backward passes started above."""
    counts: list[int] = []
    with noted_roots(lambda root: counts.append(sum(1 for _ in nodes_behind(root))), live=True):
        life.step(experiment.batch)
    return sum(counts)


def _cures(experiment: Experiment, done: int) -> Iterator[Attribute]:
    """The attributes that, detached after each step, let the steps run."""
    for each in _holding(experiment):
        life = Life(experiment)
        try:
            for _ in range(done + 1):
                life.step(experiment.batch)
                _detach(life, each)
        except ExperimentError:
            continue
        yield each


def _shrinks(experiment: Experiment, counts: list[int]) -> Iterator[Attribute]:
    """The attributes that, detached after each step, keep the graph from growing."""
    for each in _holding(experiment):
        life, found = Life(experiment), []
        for _ in counts[:3]:
            found.append(_nodes_of_step(life, experiment))
            _detach(life, each)
        if found[-1] < counts[2]:
            yield each


def _holding(experiment: Experiment) -> list[Attribute]:
    life = Life(experiment)
    life.step(experiment.batch)
    return holding_graphs(life.subject.model)


def _detach(life: Life, attribute: Attribute) -> None:
    model = life.subject.model
    put(model, attribute, _detached(dict(attributes(model)).get(attribute)))


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, Mapping):
        return {key: _detached(child) for key, child in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_detached(child) for child in value)
    return value
