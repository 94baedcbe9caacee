"""WIR029: a module's own `backward`, which autograd never calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.slopes.uncalled import NEAR, Uncalled, uncalled, with_backward


@dataclass(frozen=True, slots=True)
class OwnBackward:
    """A module defines a `backward` that autograd never calls, and that gives another gradient.

    Of an `nn.Module` it is a method as any other: a reversal or a straight-through estimator that
    is written so does nothing, and only a `torch.autograd.Function` has a backward of its own. A
    step is run to see that nobody calls it; then the module's `backward` and autograd are given the
    same random gradient of its output. A `backward` that takes a loss, one that the step calls,
    the way back of a flow, and one that agrees with autograd are healthy.

    Sick: `class Reversal(nn.Module)` with `def backward(self, grad): return -grad`.
    Healthy: the same as a `torch.autograd.Function`, called by `apply`.
    """

    code: ClassVar[str] = "WIR029"
    rule: ClassVar[str] = "own-backward"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A module with a method of that name."""
        if not with_backward(experiment.subject.model):
            return "no module defines a `backward`"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """One finding a module."""
        for each in uncalled(experiment):
            yield self._finding(each)

    def _finding(self, found: Uncalled) -> Finding:
        way = (
            "the opposite of" if found.along < -1 + NEAR else f"at a cosine of {found.along:.2g} to"
        )
        comes = (
            "nothing but zeros come back" if found.given == 0 else f"what comes back is {way} it"
        )
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{found.site}` defines `backward`, which autograd never calls, since it is a "
            f"module and no `torch.autograd.Function`: {comes}.",
            fix="Write it as a `torch.autograd.Function`, and call its `apply` in `forward`.",
            site=found.site,
            phase="backward",
            source=found.source,
            evidence=(
                Evidence("calls of its `backward` in a step", 0),
                Evidence("length of the gradient that it would give", found.own),
                Evidence("of the one that comes", found.given),
                Evidence("their cosine", found.along, 1),
            ),
        )
