"""NAN008: an inverse function at the edge of its domain, or beyond."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from nan_watch.case.material import Case
from nan_watch.case.naming import told
from nan_watch.case.trial import Patch
from probes.finding import Evidence, Finding
from probes.patch import argument

DOMAINS = {  # operator -> between which numbers it is smooth
    **dict.fromkeys(("aten.acos", "aten.asin", "aten.atanh", "aten.erfinv"), (-1.0, 1.0)),
    "aten.acosh": (1.0, float("inf")),
    "aten.logit": (0.0, 1.0),
}


@dataclass(frozen=True, slots=True)
class InverseAtEdge:
    """An inverse (acos, asin, atanh, acosh, erfinv, logit) is given the edge of its domain.

    At 1 the derivative of acos is 1 / sqrt(1 - x^2), infinite; beyond 1 its value is NaN. The
    cosine of two equal vectors is 1, or 1.0000001 by rounding.

    Sick:    `torch.acos(F.cosine_similarity(a, b))`
    Healthy: `torch.acos(F.cosine_similarity(a, b).clamp(-1 + 1e-6, 1 - 1e-6))`
    """

    margin: float = 1e-4

    code: ClassVar[str] = "NAN008"
    rule: ClassVar[str] = "inverse-at-edge"
    family: ClassVar[Literal["cause"]] = "cause"

    def lacks(self, case: Case) -> str | None:
        """The origin."""
        return case.lacks_origin

    def judge(self, case: Case) -> Iterator[Finding]:
        """The function, and the argument at or beyond the edge."""
        if case.call is None or case.op not in DOMAINS:
            return
        low, high = DOMAINS[case.op]
        values = case.at_bad(0)
        odd = None if values is None else values[(values <= low) | (values >= high)]
        if odd is not None and len(odd):
            worst = float(odd[odd.abs().argmax()])
            name = case.op.removeprefix("aten.")
            yield told(
                self,
                case,
                f"is given {worst:.8g}: {name} is smooth only between {low:g} and {high:g}",
                f"Clamp its argument a little inside: `x.clamp({low:g} + 1e-6, {high:g} - 1e-6)`; "
                "for the angle between vectors take `torch.atan2(sine, cosine)`.",
                Evidence("argument", worst, f"between {low:g} and {high:g}"),
            )

    def patches(self, case: Case) -> Iterator[Patch]:
        """The same step with the argument clamped."""
        if case.call is None or case.trial is None or case.op is None:
            return
        low, high = DOMAINS[case.op]

        def inside(values: Tensor) -> Tensor:
            return torch.clamp(values, low + self.margin, high - self.margin)

        yield case.trial.edit("with the argument clamped inside", case.call, argument(0, inside))
