"""WIR004: a step begins with the gradients of the step before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.stepping.one_step import held_back_steps


@dataclass(frozen=True, slots=True)
class Uncleared:
    """The gradients of one optimizer step are still there in the next.

    The subject's `train_step` runs on one batch, from the same random state, until the optimizer,
    which is held back, was stepped three times: each time it must hand over the same gradients,
    not their double and then their triple. Micro-batches that add up before one optimizer step
    are accumulation, and healthy, wherever its count of them begins.

    Sick: `loss.backward(); optimizer.step()` without `optimizer.zero_grad()`.
    Healthy: the same with it, before or after.
    """

    far: float = 0.05  # from twice and three times the gradient, relative

    code: ClassVar[str] = "WIR004"
    rule: ClassVar[str] = "gradients-not-cleared"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A step of the subject's own."""
        if experiment.subject.train_step is None:
            return "the subject has no `train_step`: the step is whynan's own, which clears them"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding."""
        steps = held_back_steps(experiment.subject, experiment.step_batch)
        first, second, third = (_joined(grads) for grads in steps)
        same = first.shape == second.shape == third.shape
        if not same or not bool((first != 0).any()):
            return
        share = float((first @ second) / (first @ first))
        grown = (second - 2 * first, third - 3 * first)
        if not all(float(each.norm() / first.norm()) <= self.far for each in grown):
            return
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message="gradients are not cleared between steps: the same batch gives "
            f"{share:.3g} times the gradient in the second step.",
            fix="Call `optimizer.zero_grad()` once before each backward pass, or after each "
            "`optimizer.step()`.",
            site="<optimizer>",
            phase="backward",
            evidence=(Evidence("second gradient in units of the first", share, 1.0),),
        )


def _joined(grads: dict[str, Tensor | None]) -> Tensor:
    """All gradients as one vector in float64."""
    parts = [g.to_dense().double().flatten() for g in grads.values() if g is not None]
    return torch.cat(parts) if parts else torch.zeros(1, dtype=torch.float64, device="cpu")
