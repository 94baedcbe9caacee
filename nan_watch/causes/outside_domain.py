"""NAN023: a function outside its domain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from nan_watch.case.arguments import below
from nan_watch.case.material import Case
from nan_watch.case.naming import told
from nan_watch.case.trial import Patch
from probes.finding import Evidence, Finding
from probes.patch import argument

DOMAINS = {  # operator -> the smallest argument that it is defined for
    **dict.fromkeys(("aten.sqrt", "aten.rsqrt", "aten.log", "aten.log2", "aten.log10"), 0.0),
    "aten.log1p": -1.0,
}


@dataclass(frozen=True, slots=True)
class OutsideDomain:
    """A root or a log is taken of a negative number.

    Both are NaN below zero. Numbers that can only be positive on paper come out a little under
    zero by rounding: a variance as E[x^2] - E[x]^2, a distance as |a|^2 + |b|^2 - 2ab.

    Sick:    `std = ((x ** 2).mean() - x.mean() ** 2).sqrt()`
    Healthy: `std = x.var(unbiased=False).clamp(min=0).add(eps).sqrt()`
    """

    code: ClassVar[str] = "NAN023"
    rule: ClassVar[str] = "outside-domain"
    family: ClassVar[Literal["cause"]] = "cause"

    def lacks(self, case: Case) -> str | None:
        """The origin."""
        return case.lacks_origin

    def judge(self, case: Case) -> Iterator[Finding]:
        """The call, and the smallest argument."""
        if case.call is None or case.op not in DOMAINS or case.is_backward:
            return
        values, least = case.at_bad(0), DOMAINS[case.op]
        if values is not None and below(values, least):
            smallest = float(values.min())
            name = case.op.removeprefix("aten.")
            yield told(
                self,
                case,
                f"is given {smallest:.4g}, and {name} is not defined below {least:g}",
                "Compute what it is given so that it cannot fall under its domain, or clamp it "
                "just inside: `x.clamp(min=eps)`.",
                Evidence("smallest argument", smallest, least),
            )

    def patches(self, case: Case) -> Iterator[Patch]:
        """The same step with the argument clamped."""
        if case.call is not None and case.trial is not None and case.op is not None:
            least = DOMAINS[case.op]
            inside = argument(0, lambda x: torch.where(x <= least, least + 1.0, x))
            yield case.trial.edit("with the argument kept inside", case.call, inside)
