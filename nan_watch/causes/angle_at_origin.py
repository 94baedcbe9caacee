"""NAN009: the angle of the origin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from nan_watch.case.arguments import holds
from nan_watch.case.material import Case
from nan_watch.case.naming import told
from nan_watch.case.trial import Patch
from probes.finding import Finding
from probes.patch import argument

ANGLES = ("aten.atan2", "aten.angle", "aten.hypot")


@dataclass(frozen=True, slots=True)
class AngleAtOrigin:
    """The angle, or the length, of the point (0, 0) is taken.

    The derivative of hypot divides by the length, that of atan2 by its square; newer releases of
    torch give 0 for that of atan2 and angle, but not for hypot. Padding, silence in audio and
    boxes without a size stand there.

    Sick:    `torch.hypot(x, y)` of vectors that may be zero
    Healthy: `torch.hypot(torch.where((x == 0) & (y == 0), 1e-6, x), y)`
    """

    code: ClassVar[str] = "NAN009"
    rule: ClassVar[str] = "angle-at-origin"
    family: ClassVar[Literal["cause"]] = "cause"

    def lacks(self, case: Case) -> str | None:
        """The origin."""
        return case.lacks_origin

    def judge(self, case: Case) -> Iterator[Finding]:
        """The call."""
        call = case.call
        if call is None or case.op not in ANGLES or not case.is_backward:
            return
        points = [case.at_bad(place) for place in range(2) if call.values(place) is not None]
        if points and all(holds(values, 0.0) for values in points):
            yield told(
                self,
                case,
                "is taken at the origin, where its derivative divides by 0",
                "Move the origin off zero before it, `torch.where((x == 0) & (y == 0), 1.0, x)`, "
                "or leave such entries out.",
            )

    def patches(self, case: Case) -> Iterator[Patch]:
        """The same step with 1 in place of 0 in the last argument."""
        if case.call is not None and case.trial is not None:
            last = max(p for p in range(2) if case.call.values(p) is not None)
            off = argument(last, lambda x: torch.where(x == 0, 1.0, x))
            yield case.trial.edit("with the point moved off the origin", case.call, off)
