"""NAN020: the optimizer divides by an eps that its precision rounds to zero."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch

from nan_watch.case.material import Case
from nan_watch.case.naming import sight
from probes.finding import Evidence, Finding


@dataclass(frozen=True, slots=True)
class OptimizerUnderflow:
    """An update divides by root(v) + eps, and both are zero in half precision.

    Adam keeps the mean square of each gradient in the parameter's own dtype: a gradient of 1e-4
    squared is 1e-8, and so is eps, and float16 knows neither. 0 / 0 is NaN, with gradients that
    are all finite.

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
        if not names or case.optimizer is None:
            return
        for group in case.optimizer.param_groups:
            eps, poisoned = group.get("eps"), [p for p in group["params"] if not _is_finite(p)]
            small = [p for p in poisoned if eps and float(torch.tensor(eps, dtype=p.dtype)) == 0]
            if small:
                found = sight(self, case)
                yield replace(
                    found,
                    message=f"the update of step {found.step} gives {len(poisoned)} parameters "
                    f"that are not finite, `{names[0]}` first, of finite gradients: eps = {eps:g} "
                    f"is 0 in {small[0].dtype}, and so is the root that it is added to.",
                    fix="Keep the parameters in float32 and compute under autocast, or give the "
                    f"optimizer an eps over {torch.finfo(small[0].dtype).tiny:.2g}.",
                    site="<optimizer>",
                    evidence=(Evidence("eps in the parameters' dtype", 0.0, eps), *found.evidence),
                )
                return


def _is_finite(parameter: torch.Tensor) -> bool:
    return bool(parameter.detach().isfinite().all())
