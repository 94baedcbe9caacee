"""NAN006: a number overflows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from nan_watch.case.material import Case
from nan_watch.case.naming import told
from nan_watch.case.trial import Patch
from nan_watch.origin.events import Event
from probes.finding import Evidence, Finding
from probes.patch import argument

POLYGAMMA = "polygamma"  # of an order and a number
EXPONENTIALS = ("exp", "exp2", "expm1", "sinh", "cosh")


@dataclass(frozen=True, slots=True)
class Overflow:
    """A finite input gives an infinite output: an exponential, a square, a product, a sum.

    float32 ends at 3.4e38: at exp(88.7), or at the square of 1.8e19. An exponential of something
    that is learned, such as a log-variance, gets there in a few steps without a bound. A function
    may also have a pole at a small number, as lgamma and digamma have at 0.

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
        pole = self._pole(case)
        if pole is not None:
            yield self._at_pole(case, pole)
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

    def _pole(self, case: Case) -> float | None:
        """Where a function of one number is infinite that is not large; None where it is none."""
        call, name = case.call, (case.op or "").removeprefix("aten.")
        if call is None or name in EXPONENTIALS or (len(call.args) > 1 and name != POLYGAMMA):
            return None
        read = case.at_bad(len(call.args) - 1)
        pole = None if read is None or not read.numel() else float(read.reshape(-1)[0])
        return pole if pole is not None and abs(pole) <= self.pole else None

    def _at_pole(self, case: Case, pole: float) -> Finding:
        back = " on the way back" if case.is_backward else ""
        return told(
            self,
            case,
            f"is infinite{back} at {pole:.4g}, which it was given",
            f"Keep its argument off {pole:.4g}, by an eps that its dtype holds; what is masked "
            "afterwards must be masked before it as well.",
            Evidence("argument", pole, f"off {pole:.4g}"),
        )

    def _is_large(self, case: Case) -> bool:
        """Whether it was given anything large, and did not just meet a pole."""
        largest = None if case.birth is None else case.birth.largest_finite
        name = (case.op or "").removeprefix("aten.")
        return largest is None or largest > self.pole or name in EXPONENTIALS

    def patches(self, case: Case) -> Iterator[Patch]:
        """The same step with the exponent bounded, or kept off the pole."""
        name = (case.op or "").removeprefix("aten.")
        pole = self._pole(case)
        if pole is not None and case.call is not None and case.trial is not None:
            off = argument(len(case.call.args) - 1, partial(_off, pole=pole))
            yield case.trial.edit(f"with its argument kept off {pole:.4g}", case.call, off)
            return
        if case.call is None or case.trial is None or name not in EXPONENTIALS:
            return
        bound = argument(0, lambda x: x.clamp(-20.0, 20.0))
        yield case.trial.edit("with the exponent clamped to 20", case.call, bound)


def _overflows(birth: Event) -> bool:
    """An infinity of finite numbers, or a NaN of such, as a sum of products that overflow has."""
    of_finite = birth.nan_born and not birth.reads and birth.held is not None and birth.held.inf > 0
    return birth.inf_born or of_finite


def _off(values: Tensor, pole: float) -> Tensor:
    return torch.where(values == pole, values + torch.finfo(values.dtype).eps * 64, values)


def _limit(tensor: Tensor | None) -> float | None:
    """The largest number that the tensor's dtype holds."""
    if tensor is None or not tensor.is_floating_point():
        return None
    return float(torch.finfo(tensor.dtype).max)
