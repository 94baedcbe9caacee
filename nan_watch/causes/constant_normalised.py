"""NAN013: something constant is normalised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from nan_watch.case.arguments import CARRY, holds
from nan_watch.case.material import Case
from nan_watch.case.naming import told
from nan_watch.case.trial import Patch
from nan_watch.origin.closeup import Call, Made
from probes.finding import Finding
from probes.patch import Arguments, argument

SPREADS = {
    **dict.fromkeys(("aten.std", "aten.var", "aten.std_mean", "aten.var_mean"), "spread"),
    **dict.fromkeys(("aten.linalg_vector_norm", "aten.norm"), "norm"),
}
SUMS = ("aten.mean", "aten.sum")
PASSED = CARRY | {"aten.sqrt", "aten.clamp", "aten.clamp_min", "aten.add", "aten.mul", *SUMS}
EPS = {  # operator -> place of its eps
    "aten.native_layer_norm": 4,
    "aten.native_batch_norm": 7,
    "aten.native_group_norm": 7,
    "aten._fused_rms_norm": 3,
}
DIVISIONS = ("aten.div", "aten.reciprocal", "aten.rsqrt")
WEIGHT_NORM = "aten._weight_norm_interface"


@dataclass(frozen=True, slots=True)
class ConstantNormalised:
    """Something that does not vary is divided by its own spread, norm or range, which is 0.

    Padding, a feature that is the same in all samples, an empty image, a vector of zeros: the
    mean goes off and 0 / 0 stays. A layer with eps=0 does so inside.

    Sick:    `(x - x.mean(0)) / x.std(0)` where a column is constant
    Healthy: `(x - x.mean(0)) / (x.std(0) + 1e-6)`
    """

    code: ClassVar[str] = "NAN013"
    rule: ClassVar[str] = "constant-normalised"
    family: ClassVar[Literal["cause"]] = "cause"

    def lacks(self, case: Case) -> str | None:
        """The origin."""
        return case.lacks_origin

    def judge(self, case: Case) -> Iterator[Finding]:
        """The division, and what it divides by."""
        call = case.call
        if call is None or case.op is None:
            return
        fix = "Add a small number below, `(x - mean) / (std + eps)`, or leave what is constant out."
        if case.op in EPS and call.arg(EPS[case.op]) == 0.0:
            yield told(self, case, "normalises what does not vary, with eps=0", fix)
        elif case.op == WEIGHT_NORM and holds(case.at_bad(0), 0.0):
            fix = (
                "Start from weights that are not zero, and set zeros, where they are wanted, by "
                "the norm: `weight_g`, or `original0` of a parametrisation."
            )
            yield told(self, case, "divides a weight of zeros by its norm", fix)
        elif case.op in DIVISIONS and holds(case.at_bad(_place(call)), 0.0):
            kind = _kind(call)
            if kind is not None:
                yield told(self, case, f"divides by a {kind} of 0", fix)

    def patches(self, case: Case) -> Iterator[Patch]:
        """The same step with 1 for a spread of 0, or an eps."""
        call, trial = case.call, case.trial
        if call is None or trial is None or case.op is None:
            return
        if case.op in EPS:
            place = EPS[case.op]

            def with_eps(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments:
                return [*args[:place], 1e-5, *args[place + 1 :]], kwargs

            yield trial.edit("with an eps of 1e-5", call, with_eps)
        else:
            words = "with 1 for a spread of 0"
            yield trial.edit(words, call, argument(_place(call), _off_zero))
            for root in (made for made in _line(call) if made.op == "aten.sqrt"):
                yield trial.edit(f"{words}, under its root", root, argument(0, _off_zero))


def _off_zero(values: Tensor) -> Tensor:
    return torch.where(values == 0, 1.0, values)


def _place(call: Call) -> int:
    return 1 if call.op.startswith("aten.div") else 0


def _kind(call: Call) -> str | None:
    """Whether it is a spread, a norm or a range by which the call divides; None where neither."""
    summed = False
    for made in _line(call):
        op = made.op.removesuffix("_")
        if op in ("aten.sub", "aten.rsub"):
            return "range" if _is_range(made) else None
        if op in SPREADS:
            return SPREADS[op]
        if op == "aten.pow" and summed:
            return "norm"
        summed = summed or op in SUMS
    return None


def _line(call: Call) -> Iterator[Made]:
    """Who made what it divides by, nearest first, as far as that is one line of operators."""
    made: Made | None = call.made.get(_place(call))
    while made is not None:
        yield made
        passes = made.op.removesuffix("_") in PASSED and made.parents
        made = made.parents[0] if passes else None


def _is_range(made: Made) -> bool:
    """Whether it is a largest number less a smallest, or a number less its mean."""
    ops = {parent.op.rpartition(".")[2] for parent in made.parents}
    return bool(ops & {"amax", "max", "amin", "min", "mean"})
