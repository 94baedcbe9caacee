"""NAN006: a number overflows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from nan_watch.case.material import Case
from nan_watch.case.naming import told
from nan_watch.case.trial import Patch
from nan_watch.origin.events import Event
from probes.finding import Evidence, Finding
from probes.patch import argument

EXPONENTIALS = ("exp", "exp2", "expm1", "sinh", "cosh")


@dataclass(frozen=True, slots=True)
class Overflow:
    """A finite input gives an infinite output: an exponential, a square, a product, a sum.

    float32 ends at 3.4e38: at exp(88.7), or at the square of 1.8e19. An exponential of something
    that is learned, such as a log-variance, gets there in a few steps without a bound.

    Sick:    `std = (0.5 * logvar).exp()` of a log-variance that nothing bounds
    Healthy: `std = (0.5 * logvar.clamp(-20, 20)).exp()`, or `F.softplus(raw)`
    """

    pole: float = 1e3

    code: ClassVar[str] = "NAN006"
    rule: ClassVar[str] = "overflow"
    family: ClassVar[Literal["cause"]] = "cause"

    def lacks(self, case: Case) -> str | None:
        """The origin."""
        return case.lacks_origin

    def judge(self, case: Case) -> Iterator[Finding]:
        """The operator, and the largest number that it was given."""
        birth, call = case.birth, case.call
        if birth is None or call is None or birth.meant or not _overflows(birth):
            return
        largest = birth.largest_finite
        given = f" of numbers up to {largest:.4g}" if largest is not None else ""
        back = " on the way back" if case.is_backward else ""
        limit = _limit(call.out)
        yield told(
            self,
            case,
            f"{'overflows' if self._is_large(case) else 'is infinite'}{back}{given}",
            "Bound what it is given (clamp, normalise, softplus for exp), compute it in the log, "
            "or subtract the largest number first.",
            *([] if largest is None else [Evidence("largest finite input", largest, limit)]),
        )

    def _is_large(self, case: Case) -> bool:
        """Whether it was given anything large, and did not just meet a pole."""
        largest = None if case.birth is None else case.birth.largest_finite
        name = (case.op or "").removeprefix("aten.")
        return largest is None or largest > self.pole or name in EXPONENTIALS

    def patches(self, case: Case) -> Iterator[Patch]:
        """The same step with the exponent bounded."""
        name = (case.op or "").removeprefix("aten.")
        if case.call is None or case.trial is None or name not in EXPONENTIALS:
            return
        bound = argument(0, lambda x: x.clamp(-20.0, 20.0))
        yield case.trial.edit("with the exponent clamped to 20", case.call, bound)


def _overflows(birth: Event) -> bool:
    """An infinity of finite numbers, or a NaN of such, as a sum of products that overflow has."""
    of_finite = birth.nan_born and not birth.reads and birth.held is not None and birth.held.inf > 0
    return birth.inf_born or of_finite


def _limit(tensor: Tensor | None) -> float | None:
    """The largest number that the tensor's dtype holds."""
    if tensor is None or not tensor.is_floating_point():
        return None
    return float(torch.finfo(tensor.dtype).max)
