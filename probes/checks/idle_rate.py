"""WIR008: a learning rate that is zero and stays so."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.one_step import made


@dataclass(frozen=True, slots=True)
class IdleRate:
    """The learning rate is zero, and the schedule does not raise it within `steps` steps.

    The schedule is stepped without training. Zero in the first step of a warm-up is healthy; zero
    in one group of several is a note, since it is a way to freeze.

    Sick: `Adam(model.parameters(), lr=0.0)`; `LambdaLR(optimizer, lambda step: step // 10_000)`.
    Healthy: `LambdaLR(optimizer, lambda step: min(1.0, step / 10))`.
    """

    steps: int = 500

    code: ClassVar[str] = "WIR008"
    rule: ClassVar[str] = "learning-rate-zero"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Nothing."""
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding."""
        rates = self._largest(experiment)
        idle = [i for i, rate in enumerate(rates) if rate == 0]
        if not idle:
            return
        every = len(idle) == len(rates)
        what = "the learning rate" if every else f"the learning rate of group {idle[0]}"
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL if every else Verdict.NOTE,
            message=f"{what} is 0 and stays 0 for {self.steps} steps: nothing is learned.",
            fix="Give a learning rate above 0, and a schedule that leaves its warm-up."
            if every
            else "Nothing, if the group is frozen on purpose.",
            site="<optimizer>",
            phase="update",
            evidence=(Evidence(f"largest rate within {self.steps} steps", 0.0),),
        )

    def _largest(self, experiment: Experiment) -> list[float]:
        """The largest learning rate of every group, over the steps."""
        loop = made(experiment.subject)
        groups = loop.optimizer.param_groups
        rates = [float(group.get("lr", 1.0)) for group in groups]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the optimizer is not stepped, on purpose
            for _ in range(self.steps if loop.schedule is not None and 0 in rates else 0):
                try:
                    loop.schedule.step()  # type: ignore[union-attr]
                except TypeError:  # it wants a metric
                    break
                rates = [max(r, float(g["lr"])) for r, g in zip(rates, groups, strict=True)]
        return rates
