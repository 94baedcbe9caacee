"""WIR020: gradients of several backward passes are added up, and not divided."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from probes.batch import sample_count
from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.first_step import first_batch
from probes.stepping.accumulated import Accumulated, accumulated


@dataclass(frozen=True, slots=True)
class Accumulation:
    """Gradients of several backward passes are summed for one step, and not divided by their count.

    What the subject's `train_step` hands to the optimizer is compared with the gradient of
    `Subject.loss` on the same batch, without dropout: where it points the same way and is longer
    by the number of passes, the losses of the micro-batches are not divided; where it is shorter
    by it, they are divided twice, in the losses or by hand, and not clipped. Neither is silence.
    Nor are passes of one call over all samples each, as of adversarial training: these are terms
    of one loss, and no micro-batches.

    Sick: `for part in batch.chunk(4): loss(part).backward()`, then `optimizer.step()`.
    Healthy: the same with `(loss(part) / 4).backward()`.
    """

    near: float = 0.1  # of the number of passes
    exact: float = 1e-3  # what is divided by hand is so by just that number; clipping is not
    along: float = 0.9  # cosine of the two gradients
    same: float = 1e-6  # how far from 1 that is of one pass over all samples, and of their loss

    code: ClassVar[str] = "WIR020"
    rule: ClassVar[str] = "accumulation-not-divided"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A step of the subject's own."""
        if experiment.subject.train_step is None:
            return "the subject has no `train_step`: the step is whynan's own, one backward pass"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding."""
        found = accumulated(experiment.subject, first_batch(experiment.subject))  # uncut
        if found.passes < 2 or self._are_terms(experiment, found):
            return
        seen, whole = _joined(found.seen, found.whole)
        left, _ = _joined(found.left, found.whole)
        length = float(whole.norm() * seen.norm())
        if not length > 0 or float(seen @ whole) < self.along * length:
            return
        times, passes = float(seen @ whole / (whole @ whole)), found.passes
        if abs(times - passes) <= self.near * passes:
            yield self._said(times, passes, "not divided", "Divide each loss by")
        elif abs(times * passes - 1) <= self.near and self._is_divided(seen, left, passes):
            yield self._said(times, passes, "divided once too often", "Divide only once by")

    def _are_terms(self, experiment: Experiment, found: Accumulated) -> bool:
        """Whether each pass, within one call of the step, was over all samples of its batch."""
        if found.calls > 1:
            return False
        one, whole = _joined(found.first, found.whole)
        length = float(one.norm() * whole.norm())
        if length > 0 and float(one @ whole) >= (1 - self.same) * length:
            return True
        size = sample_count(first_batch(experiment.subject), experiment.layout)
        return len(found.rows) >= found.passes and all(n == size for n in found.rows)

    def _is_divided(self, seen: Tensor, left: Tensor, passes: int) -> bool:
        """Whether the backward passes left no more, or the rest was divided by just their number.

        A gradient that is clipped is shorter by any factor.
        """
        kept = float(seen.norm() / left.norm())
        return kept > 1 - self.near or abs(kept * passes - 1) <= self.exact

    def _said(self, times: float, passes: int, what: str, fix: str) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"the gradients of {passes} backward passes are added up and {what}: the "
            f"optimizer sees {times:.3g} times the gradient of the whole batch's loss.",
            fix=f"{fix} the number of backward passes before one optimizer step ({passes}).",
            site="<optimizer>",
            phase="backward",
            evidence=(
                Evidence("gradient in units of the whole batch's", times, 1.0),
                Evidence("backward passes before one optimizer step", passes),
            ),
        )


def _joined(
    seen: Mapping[str, Tensor | None], whole: Mapping[str, Tensor | None]
) -> tuple[Tensor, Tensor]:
    """Both as vectors in float64, over the parameters that the whole batch's loss reaches."""
    pairs = []
    for name, grad in whole.items():
        if grad is not None:
            of = seen.get(name)
            wide = grad.to_dense().double().flatten()
            pairs.append((torch.zeros_like(wide) if of is None else of.to_dense().double(), wide))
    if not pairs:
        return torch.zeros(1, device="cpu"), torch.zeros(1, device="cpu")
    return torch.cat([a.flatten() for a, _ in pairs]), torch.cat([b for _, b in pairs])
