"""NAN020: the optimizer divides by an eps that its precision rounds to zero."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch

from nan_watch.case.arguments import holds
from nan_watch.case.material import Case
from nan_watch.case.naming import shown, sight
from nan_watch.case.optimizers import vanishing
from nan_watch.origin.sources import in_words
from probes.finding import Evidence, Finding

DIVISORS = {"aten.addcdiv": 2, "aten.div": 1, "aten.reciprocal": 0}
"""Operators with the place of what they divide by."""


@dataclass(frozen=True, slots=True)
class OptimizerUnderflow:
    """An update divides by root(v) + eps, and both are zero in half precision.

    Adam keeps the mean square of each gradient in the parameter's own dtype: a gradient of 1e-4
    squared is 1e-8, and so is eps, and float16 knows neither. 0 / 0 is NaN, with gradients that
    are all finite. An eps that is given as 0 does the same in any precision.

    Sick:    `Adam(model.half().parameters())`, whose eps is 1e-8
    Healthy: parameters in float32 under autocast, or `Adam(..., eps=1e-4)`
    """

    code: ClassVar[str] = "NAN020"
    rule: ClassVar[str] = "optimizer-underflow"
    family: ClassVar[Literal["cause"]] = "cause"

    def lacks(self, case: Case) -> str | None:
        """The optimizer."""
        return "the optimizer is not known" if case.optimizer is None else None

    def judge(self, case: Case) -> Iterator[Finding]:
        """The first parameter, and the eps that is none."""
        names = [each.name for each in case.symptom.state if each.name not in case.symptom.loaded]
        if not names or case.optimizer is None or not _divides(case):
            return
        for eps, held in vanishing(case.optimizer):
            poisoned = [each for each in held if not _is_finite(each)]
            if poisoned:
                found, dtype = shown(sight(self, case), case.origin), poisoned[0].dtype
                none = "eps is 0" if eps == 0 else f"eps = {eps:g} is 0 in {dtype}"
                at = in_words(case.origin.source, case.origin.library) if case.origin else ""
                by = f"; `{found.op}`{at} divides by their sum" if found.op else ""
                yield replace(
                    found,
                    message=f"the update of step {found.step} gives {len(poisoned)} parameters "
                    f"that are not finite, `{names[0]}` first, of finite gradients: {none}, and "
                    f"so is the root that it is added to{by}.",
                    fix=_fix(eps, dtype),
                    site="<optimizer>",
                    evidence=(Evidence("eps in the parameters' dtype", 0.0, eps), *found.evidence),
                )
                return


def _divides(case: Case) -> bool:
    """Whether the operator divides by zero, where it is known."""
    if case.origin is None:
        return True
    place = DIVISORS.get(case.op or "")
    return place is not None and holds(case.at_bad(place), 0.0)


def _fix(eps: float, dtype: torch.dtype) -> str:
    if dtype not in (torch.float16, torch.bfloat16):
        return "Give the optimizer an eps, such as the 1e-8 that is the default of Adam."
    return (
        "Keep the parameters in float32 and compute under autocast, or give the optimizer an eps "
        f"over {torch.finfo(dtype).tiny:.2g}."
    )


def _is_finite(parameter: torch.Tensor) -> bool:
    return bool(parameter.detach().isfinite().all())
