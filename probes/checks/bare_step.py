"""WIR022: the optimizer is stepped while there are no gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict


@dataclass(frozen=True, slots=True)
class BareStep:
    """Gradients are computed, and none of them is left when the optimizer is stepped.

    The subject's `train_step` is called a few times: backward gives gradients, and at no step of
    the optimizer has a parameter that it holds one that is not zero. Either they are cleared
    between the two, or the optimizer is stepped first and what comes after it is cleared at the
    start of the next call. Nothing is ever learned.

    Sick: `loss.backward(); optimizer.zero_grad(); optimizer.step()`.
    Healthy: `optimizer.zero_grad(); loss.backward(); optimizer.step()`.
    """

    code: ClassVar[str] = "WIR022"
    rule: ClassVar[str] = "step-without-gradients"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A step of the subject's own."""
        if experiment.subject.train_step is None:
            return "the subject has no `train_step`: the step is whynan's own"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding."""
        order = experiment.order
        if not order.bare:
            return
        steps = order.events.count("bare step")
        what = (
            "`optimizer.step()` runs before `backward()`, and what that gives is cleared before "
            "the next"
            if order.ahead
            else "the gradients are cleared between `backward()` and `optimizer.step()`"
        )
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"{what}: at each of {steps} steps no parameter had a gradient, so nothing is "
            "learned.",
            fix="Keep the order `optimizer.zero_grad()`, `loss.backward()`, `optimizer.step()`.",
            site="<optimizer>",
            phase="update",
            evidence=(
                Evidence("steps of the optimizer without a gradient", steps, 0),
                Evidence("order", ", ".join(order.events)),
            ),
        )
