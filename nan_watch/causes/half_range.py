"""NAN014: a number leaves the range of half precision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from nan_watch.case.arguments import holds
from nan_watch.case.material import Case
from nan_watch.case.naming import told
from nan_watch.case.trial import Patch
from nan_watch.causes.log_of_zero import log_of_softmax
from nan_watch.origin.sources import here, module_names
from probes.finding import Evidence, Finding
from probes.patch import Widened, wider

AT_ZERO = {  # operator -> place of the argument that it cannot have at 0
    **dict.fromkeys(("aten.log", "aten.log2", "aten.log10", "aten.rsqrt", "aten.reciprocal"), 0),
    **dict.fromkeys(("aten.pow", "aten.sqrt"), 0),
    "aten.div": 1,
}
HALF = {torch.float16: "float16", torch.bfloat16: "bfloat16"}


@dataclass(frozen=True, slots=True)
class HalfRange:
    """A number is too large, or too small, for the half precision that it is held in.

    float16 ends at 65504 and rounds what is under 6e-8 to 0, an eps of 1e-8 included; bfloat16
    has the range of float32 but 8 bits, so that 1 - 0.999 is 0. Said only where the same step in
    float32 is finite.

    Sick:    `(q @ k.transpose(-1, -2)).half()` of scores over 65504; `x / (std + 1e-8)` in half
    Healthy: `with torch.autocast(device, enabled=False):` around that operator
    """

    near: int = 8

    code: ClassVar[str] = "NAN014"
    rule: ClassVar[str] = "half-precision-range"
    family: ClassVar[Literal["cause"]] = "cause"
    only_confirmed: ClassVar[bool] = True

    def lacks(self, case: Case) -> str | None:
        """The origin."""
        return case.lacks_origin

    def judge(self, case: Case) -> Iterator[Finding]:
        """The operator, and whether its numbers grew too large or shrank to zero."""
        dtype = self._half(case)
        birth = case.birth
        if dtype is None or birth is None or log_of_softmax(case) is not None:
            return
        limits = torch.finfo(dtype)
        grew = birth.held is not None and birth.held.inf > 0 and not _at_zero(case)
        what = f"outgrows {HALF[dtype]}, which ends at {limits.max:.6g}"
        if not grew:
            what = f"meets a number that {HALF[dtype]} rounds to 0, or an infinity it made"
        largest = (
            ()
            if birth.largest_finite is None
            else (Evidence("largest finite input", birth.largest_finite, limits.max),)
        )
        yield told(
            self,
            case,
            what,
            f"Keep this operator in float32, `with torch.autocast(device, enabled=False)`, or in "
            f"bfloat16; scale its input down; take an eps over {limits.tiny:.2g}.",
            *largest,
        )

    def patches(self, case: Case) -> Iterator[Patch]:
        """The same step in float32."""
        call, trial = case.call, case.trial
        if call is None or trial is None:
            return
        names = module_names(trial.model)
        yield Patch(
            "in float32 instead of half precision",
            lambda: [wider(trial.model, trial.batch, torch.float32), Widened(lambda: True)],
            lambda: [Widened(lambda: here(names).innermost != call.innermost)],
        )

    def _half(self, case: Case) -> torch.dtype | None:
        """The half precision that the call, or what it reads, is held in."""
        if case.call is None:
            return None
        held = [t.dtype for t in (*case.call.tensors, case.call.out) if t is not None]
        held += [made.dtype for made in case.makers[: self.near]]
        return next((dtype for dtype in held if dtype in HALF), None)


def _at_zero(case: Case) -> bool:
    """Whether the infinity is that of a zero: of its log, or of what it divides."""
    place = AT_ZERO.get(case.op or "")
    return place is not None and holds(case.at_bad(place), 0.0)
