"""NAN024: zero times infinity, or infinity less infinity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from nan_watch.case.arguments import holds
from nan_watch.case.material import Case
from nan_watch.case.naming import told
from nan_watch.case.trial import Patch
from probes.finding import Finding
from probes.patch import Arguments

LARGE = 1e4
SUMS = (
    *("aten.add", "aten.sub", "aten.rsub", "aten.div", "aten.sum", "aten.mean", "aten.cumsum"),
    *("aten.logaddexp", "aten.logcumsumexp"),
)
PRODUCTS = (
    *("aten.mm", "aten.bmm", "aten.addmm", "aten.baddbmm", "aten.mv", "aten.addmv", "aten.dot"),
    *("aten.addcmul", "aten.addcdiv", "aten.lerp", "aten.convolution", "aten.prod"),
)


@dataclass(frozen=True, slots=True)
class ZeroTimesInfinity:
    """An infinity that was meant, as a mask's -inf is, enters arithmetic that makes NaN of it.

    0 x -inf, -inf + inf, -inf / -inf are NaN. A mask is filled in or added; multiplied with, it
    poisons just the entries that it was to leave alone.

    Sick:    `scores + (1 - mask) * float("-inf")`: where mask is 1, 0 x -inf
    Healthy: `scores.masked_fill(mask == 0, float("-inf"))`
    """

    code: ClassVar[str] = "NAN024"
    rule: ClassVar[str] = "zero-times-infinity"
    family: ClassVar[Literal["cause"]] = "cause"

    def lacks(self, case: Case) -> str | None:
        """The origin."""
        return case.lacks_origin

    def judge(self, case: Case) -> Iterator[Finding]:
        """The operator, and what it was given."""
        call, birth = case.call, case.birth
        if call is None or birth is None or not birth.nan_born or case.is_backward:
            return
        values = [case.at_bad(place) for place in range(3)]
        numbers = [each for each in call.args if isinstance(each, (int, float))]
        infinite = any(v is not None and bool(v.isinf().any()) for v in values)
        infinite = infinite or any(abs(number) == float("inf") for number in numbers)
        if not infinite:
            return
        zero = any(holds(each, 0.0) for each in values) or 0 in numbers
        if case.op in ("aten.mul", *PRODUCTS) and zero:
            what = "multiplies 0 by an infinity"
        elif case.op in SUMS + PRODUCTS:
            what = "takes one infinity and another together"
        else:
            return
        yield told(
            self,
            case,
            what,
            'Fill the infinity in, `scores.masked_fill(hidden, float("-inf"))`, instead of '
            "multiplying with it, or mask with a large finite number.",
        )

    def patches(self, case: Case) -> Iterator[Patch]:
        """The same step with a large finite number for the infinity."""
        if case.call is None or case.trial is None:
            return

        yield case.trial.edit("with a large finite number for the infinity", case.call, _bounded)


def _bounded(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments:
    return [_bound(each) for each in args], kwargs


def _bound(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.nan_to_num(posinf=LARGE, neginf=-LARGE) if value.isinf().any() else value
    return max(-LARGE, min(LARGE, value)) if isinstance(value, float) else value
