"""WIR004: a step begins with the gradients of the step before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
    which is held back, was stepped three times: each time it must hand over the same gradient of
    each parameter, not its double and then its triple. Micro-batches that add up before one
    optimizer step are accumulation, and healthy, wherever its count of them begins.

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
        first, second, _ = steps
        live = [name for name, grad in first.items() if grad is not None and bool(grad.any())]
        piled = [name for name in live if self._piles_up([each[name] for each in steps])]
        if not piled:
            return
        one, two = (_joined([grads[name] for name in piled]) for grads in (first, second))
        share = float((one @ two) / (one @ one))
        some = len(piled) < len(live)
        outermost = _outermost(piled, live) if some else []
        others = f" and of {len(outermost) - 1} more" if len(outermost) > 1 else ""
        whose = f" of `{outermost[0]}`{others}, and not of the rest," if some else ""
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"gradients{whose} are not cleared between steps: the same batch gives "
            f"{share:.3g} times the gradient in the second step.",
            fix="Call `optimizer.zero_grad()` once before each backward pass, or after each "
            f"`optimizer.step()`{': it clears all that the optimizer holds' if some else ''}.",
            site=outermost[0] if some else "<optimizer>",
            phase="backward",
            evidence=(
                Evidence("second gradient in units of the first", share, 1.0),
                Evidence("parameters of which it is so", len(piled), 0),
            ),
        )

    def _piles_up(self, grads: list[Tensor | None]) -> bool:
        """Whether a parameter hands over its gradient, then twice, then three times as much."""
        if any(each is None for each in grads):
            return False
        first, *later = (_joined([each]) for each in grads)
        if any(each.shape != first.shape for each in later):
            return False
        grown = [each - (place + 2) * first for place, each in enumerate(later)]
        return all(float(each.norm()) <= self.far * float(first.norm()) for each in grown)


def _joined(grads: list[Tensor | None]) -> Tensor:
    """All gradients as one vector in float64."""
    return torch.cat([g.to_dense().double().flatten() for g in grads if g is not None])


def _outermost(piled: list[str], live: list[str]) -> list[str]:
    """The outermost modules of which it is so of all that has a gradient, else the parameters."""
    others = {".".join(at[:n]) for at in _parts(set(live) - set(piled)) for n in range(len(at) + 1)}
    prefixes = ([".".join(at[:n]) for n in range(1, len(at) + 1)] for at in _parts(piled))
    return list(dict.fromkeys(next(p for p in each if p not in others) for each in prefixes))


def _parts(names: Iterable[str]) -> list[list[str]]:
    return [name.split(".") for name in names]
