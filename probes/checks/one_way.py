"""WIR026: a critic is taught to score the data and what is made the same way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.stepping.scores import pushed_one_way


@dataclass(frozen=True, slots=True)
class OneWay:
    """One backward pass pushes a critic's scores of real and of made samples the same way.

    The module gives one number a sample and is called twice in the pass: on what no other part of
    the model has computed, and on what one has, cut off, so that its maker does not learn. A
    critic tells the two apart by pushing them apart. Where the gradients of all scores of both
    calls have one sign, and keep it though all scores are put far up and far down, nothing holds
    the two apart: a warning. A regression is silence, since its gradients turn with the scores.

    Sick: `-(critic(real) + critic(fake.detach()).mean()).mean()`.
    Healthy: `-critic(real).mean() + critic(fake.detach()).mean()`.
    """

    code: ClassVar[str] = "WIR026"
    rule: ClassVar[str] = "critic-pushed-one-way"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A step of the subject's own."""
        if experiment.subject.train_step is None:
            return "the subject has no `train_step`: what plays against each other steps in turn"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding."""
        found = pushed_one_way(experiment.subject, experiment.batch)
        if found is None:
            return
        where = "up" if found.up else "down"
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{found.module}` is taught to score the data and what `{found.maker}` makes "
            f"the same way: one backward pass pushes both {where}, wherever they are.",
            fix="Give the two terms opposite signs, or other targets: look for a parenthesis, a "
            "sign or a label.",
            site=found.module,
            phase="backward",
            evidence=(
                Evidence("mean gradient of the scores of the data", found.data),
                Evidence(f"the same of what `{found.maker}` makes", found.made),
            ),
        )
