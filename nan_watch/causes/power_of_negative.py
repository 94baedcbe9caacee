"""NAN007: a power of a negative number or of zero."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from nan_watch.case.arguments import below, holds
from nan_watch.case.material import Case
from nan_watch.case.naming import told
from nan_watch.case.trial import Patch
from probes.finding import Finding
from probes.patch import argument


@dataclass(frozen=True, slots=True)
class PowerOfNegative:
    """A negative base is raised to a fraction, or zero to a negative power.

    x^p is exp(p log x) for a p that is no whole number: NaN below zero. 0^-p is 1 / 0. Both
    stand where something meant to be positive was not made so, such as a learned exponent over
    plain activations.

    Sick:    `x.pow(0.3)` of activations that can be negative
    Healthy: `x.clamp(min=eps).pow(0.3)`, or `x.abs().pow(0.3) * x.sign()`
    """

    code: ClassVar[str] = "NAN007"
    rule: ClassVar[str] = "power-of-negative"
    family: ClassVar[Literal["cause"]] = "cause"

    def lacks(self, case: Case) -> str | None:
        """The origin."""
        return case.lacks_origin

    def judge(self, case: Case) -> Iterator[Finding]:
        """The power, and whether its base is negative or zero."""
        if case.call is None or case.op not in ("aten.pow", "aten.float_power"):
            return
        base, birth = case.at_bad(0), case.birth
        if birth is not None and birth.nan_born and below(base, 0.0):
            what = "raises a negative number to a fraction"
        elif holds(base, 0.0):
            what = "raises 0 to a power whose value or derivative is infinite there"
        else:
            return
        yield told(
            self,
            case,
            what,
            "Keep the base above zero, `x.clamp(min=eps).pow(p)`, or raise its size: "
            "`x.abs().pow(p) * x.sign()`.",
        )

    def patches(self, case: Case) -> Iterator[Patch]:
        """The same step with a base of 1 for those at or below zero."""
        if case.call is not None and case.trial is not None:

            def above(base: Tensor) -> Tensor:
                return torch.where(base <= 0, 1.0, base)

            yield case.trial.edit("with the base kept above zero", case.call, argument(0, above))
