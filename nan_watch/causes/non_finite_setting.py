"""NAN028: a setting of the optimizer is not finite."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from nan_watch.case.material import Case
from nan_watch.case.naming import shown, sight
from nan_watch.case.optimizers import Setting, odd_setting
from probes.finding import Evidence, Finding


@dataclass(frozen=True, slots=True)
class NonFiniteSetting:
    """The learning rate, or another setting of the optimizer, is NaN or infinite itself.

    A schedule that divides by a number of steps which is 0, a warm-up of length 0, a rate read
    from a file: with gradients that are all finite every parameter is NaN after one step.

    Sick:    `LambdaLR(optimizer, lambda step: min(1.0, step / warmup))` with `warmup = 0.0`
    Healthy: `lambda step: min(1.0, step / max(1, warmup))`
    """

    code: ClassVar[str] = "NAN028"
    rule: ClassVar[str] = "non-finite-setting"
    family: ClassVar[Literal["cause"]] = "cause"

    def lacks(self, case: Case) -> str | None:
        """The optimizer."""
        return "the optimizer is not known" if case.optimizer is None else None

    def judge(self, case: Case) -> Iterator[Finding]:
        """The setting, and the first parameter that it poisoned."""
        names = [each.name for each in case.symptom.state if each.name not in case.symptom.loaded]
        odd = odd_setting(case.optimizer) if names and case.optimizer is not None else None
        if odd is not None:
            yield blamed(shown(sight(self, case), case.origin), odd)


def blamed(found: Finding, odd: Setting) -> Finding:
    """The finding of poisoned parameters, told of the setting that did it."""
    return replace(
        found,
        code=NonFiniteSetting.code,
        rule=NonFiniteSetting.rule,
        message=f"`{odd.key}` of the optimizer's group {odd.group} is {odd.value}: the update of "
        f"step {found.step} makes of it parameters that are not finite.",
        fix=f"Look at what sets `{odd.key}`: a schedule that divides by zero, or a value that was "
        "read wrongly.",
        site="<optimizer>",
        evidence=(Evidence(odd.key, odd.value, "finite"), *found.evidence),
    )
