"""NAN002: a root or a norm at zero, whose derivative is infinite."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from nan_watch.case.arguments import holds
from nan_watch.case.material import Case
from nan_watch.case.naming import told
from nan_watch.case.trial import Patch
from nan_watch.origin.closeup import Call
from probes.finding import Finding
from probes.patch import argument

ROOTS = ("aten.sqrt", "aten.rsqrt")
NORMS = ("aten.norm", "aten.linalg_vector_norm", "aten.dist", "aten._cdist_forward")
OTHERS = ("aten._euclidean_dist", "aten._pdist_forward")


@dataclass(frozen=True, slots=True)
class RootAtZero:
    """A square root, a fractional power or a norm is taken at exactly zero.

    The derivative of the root of x is 1 / (2 root x): infinite at 0, and with the gradient 0 of
    what is inside, as x^2 has there, NaN. The value itself is fine, so that the loss is finite to
    the last; two points that coincide, or a vector of zeros, are enough.

    Sick:    `(a - b).pow(2).sum(-1).sqrt()` where a row of `a` is equal to that of `b`.
    Healthy: `((a - b).pow(2).sum(-1) + 1e-12).sqrt()`
    """

    code: ClassVar[str] = "NAN002"
    rule: ClassVar[str] = "root-at-zero"
    family: ClassVar[Literal["cause"]] = "cause"

    def lacks(self, case: Case) -> str | None:
        """The origin."""
        return case.lacks_origin

    def judge(self, case: Case) -> Iterator[Finding]:
        """The root, and the first zero."""
        call = case.call
        if call is None or not _is_root(call, case.op):
            return
        if not (case.is_backward or case.op == "aten.rsqrt"):
            return
        values = call.values(0) if case.op in NORMS + OTHERS else case.at_bad(0)
        if holds(values, 0.0):
            inside = " where its derivative is infinite" if case.is_backward else ""
            yield told(
                self,
                case,
                f"is taken at 0,{inside}" if inside else "is taken at 0",
                _fix(case.op),
            )

    def patches(self, case: Case) -> Iterator[Patch]:
        """The same step with 1 in place of 0 under the root."""
        if case.call is not None and case.trial is not None:
            yield case.trial.edit("with the root kept off zero", case.call, argument(0, _off_zero))


def _is_root(call: Call, op: str | None) -> bool:
    if op == "aten.pow":
        power = call.arg(1)
        return isinstance(power, float) and 0 < power < 1
    return op in ROOTS + NORMS + OTHERS


def _fix(op: str | None) -> str:
    if op == "aten.pow":
        return (
            "Keep the base off zero, `x.clamp(min=eps) ** p` with an eps that is small beside what "
            "counts, or keep such entries out before the power with a double `where`."
        )
    return (
        "Add a small number inside, `(x + 1e-12).sqrt()`, or keep such entries out before the root "
        "with a double `where`; compare squared distances where that will do."
    )


def _off_zero(values: Tensor) -> Tensor:
    """Distances compare rows of two tensors: another number for every zero and every row."""
    if values.ndim < 2:
        return torch.where(values == 0, 1.0, values)
    rows = torch.arange(1, values.shape[-2] + 1, device=values.device, dtype=values.dtype)
    return torch.where(values == 0, rows[:, None], values)
