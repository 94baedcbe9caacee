"""WIR033: a tensor is added to itself, under another name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict


@dataclass(frozen=True, slots=True)
class DoubledTensor:
    """A residual is added to itself: both sides of the sum are one and the same tensor.

    The code keeps a tensor under a second name, and adds both names before either was set anew;
    what was computed from it in between is not in the sum. Seen in a step, where both names of a
    frame hold one tensor, and in the code, where one is set to the other and no branch sets them
    again. `x + x`, written so, and a layer that gives back what it is given are healthy.

    Sick: `kept = x; y = self.layer(x); return x + kept`.
    Healthy: `kept = x; x = self.layer(x); return x + kept`.
    """

    code: ClassVar[str] = "WIR033"
    rule: ClassVar[str] = "doubled-tensor"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Nothing."""
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """One finding a line."""
        said = set[str]()
        for each in experiment.operated.doubled:
            if each.source in said:
                continue
            said.add(each.source)
            one, two = (f"`{name}`" for name in each.names)
            yield Finding(
                code=self.code,
                rule=self.rule,
                verdict=Verdict.WARN,
                message=f"{one} + {two} is one tensor of {each.shape}, twice: {two} was kept of it "
                "and neither was set anew, so that what was computed in between is not added.",
                fix="Add what was computed to what was kept.",
                site=each.site,
                op="add",
                phase="forward",
                source=each.source,
                evidence=(Evidence("tensors that are added", 1, 2),),
            )
