"""NAN004: a mean, or a division, over nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from nan_watch.case.arguments import holds
from nan_watch.case.material import Case
from nan_watch.case.naming import told
from nan_watch.case.trial import Patch
from nan_watch.case.zeros import gave, kept_over, zero_of
from nan_watch.origin.closeup import Call
from probes.finding import Finding
from probes.patch import Arguments, argument

DIVISIONS = {"aten.div": 1, "aten.reciprocal": 0, "aten.true_divide": 1}
REDUCTIONS = {  # operator -> place of its reduction, which is 1 for the mean and 2 for the sum
    **dict.fromkeys(("aten.mse_loss", "aten.smooth_l1_loss", "aten.huber_loss"), 2),
    **dict.fromkeys(("aten.soft_margin_loss",), 2),
    "aten.binary_cross_entropy": 3,
    "aten.binary_cross_entropy_with_logits": 4,
    **dict.fromkeys(("aten.nll_loss_forward", "aten.nll_loss2d_forward"), 3),
}
SMALL = 1e-6  # an eps, of the usual size of what it is added to
LOSSES = ("aten.nll_loss_forward", "aten.nll_loss2d_forward")


@dataclass(frozen=True, slots=True)
class DivisionByNothing:
    """A mean is taken over no element, or something is divided by zero.

    A batch in which the mask leaves nothing, labels that are all to be ignored, a class without
    a sample: the sum is 0, the count is 0, and 0 / 0 is NaN. One such batch in an epoch is enough.

    Sick:    `(loss * mask).sum() / mask.sum()` where no token of a batch is counted
    Healthy: `(loss * mask).sum() / mask.sum().clamp(min=1)`
    """

    code: ClassVar[str] = "NAN004"
    rule: ClassVar[str] = "division-by-nothing"
    family: ClassVar[Literal["cause"]] = "cause"

    def lacks(self, case: Case) -> str | None:
        """The origin."""
        return case.lacks_origin

    def judge(self, case: Case) -> Iterator[Finding]:
        """The division, and what made it nothing."""
        call = case.call
        if call is None:
            return
        what = _what(case, call)
        if what is not None:
            yield told(self, case, what, _fix(case, call))

    def patches(self, case: Case) -> Iterator[Patch]:
        """The same step with 1 for a count of 0, or with one element counted."""
        call, trial = case.call, case.trial
        if call is None or trial is None or case.op is None:
            return
        if case.op in DIVISIONS:
            place = DIVISIONS[case.op]
            yield trial.edit("divided by 1 instead of 0", call, lambda a, k: _by_one(place, a, k))
        elif case.op in LOSSES and call.args[1].numel():
            yield trial.edit("with one label counted", call, _counted)
        elif case.op in REDUCTIONS:
            place = REDUCTIONS[case.op]
            yield trial.edit("with the sum for the mean", call, lambda a, k: _summed(place, a, k))
        else:
            some = argument(0, lambda x: x.new_zeros([size or 1 for size in x.shape]))
            yield trial.edit("with a zero for the missing element", call, some)


def _what(case: Case, call: Call) -> str | None:
    op = case.op
    if op in DIVISIONS:
        place = DIVISIONS[op]
        divisor = call.arg(place)
        if isinstance(divisor, (int, float)):
            return "divides by the number 0" if divisor == 0 else None
        if not holds(case.at_bad(place), 0.0):
            return None
        return f"divides by 0{gave(zero_of(call, place))}"
    if op in LOSSES and call.arg(3) == 1:
        return "takes the mean of no label: each is ignored, or weighs 0" if _none(call) else None
    return "takes the mean of no element" if _of_none(case, call) else None


def _fix(case: Case, call: Call) -> str:
    """By the scale of what it divides by: a count is 1 or more where there is anything."""
    place = DIVISIONS.get(case.op or "")
    divisor = None if place is None else call.arg(place)
    kept = None if place is None else kept_over(call, place)
    if kept is not None:
        return kept
    if isinstance(divisor, Tensor) and divisor.is_floating_point():
        others = divisor.detach()[(divisor != 0) & divisor.isfinite()].double().abs()
        if others.numel() and bool((others != others.round()).any()):
            usual = float(others.median())
            return (
                f"Add an eps to what it divides by, far under its usual size, which is {usual:.2g} "
                f"here (such as {usual * SMALL:.0e}), or compute it so that it cannot be 0 (in "
                "the log where an exponential underflows)."
            )
    return (
        "Divide by `count.clamp(min=1)`, or leave a batch without anything to count out of the "
        "step."
    )


def _of_none(case: Case, call: Call) -> bool:
    """Whether it made a NaN of a tensor without an element: a mean, or a loss that takes one."""
    read = call.arg(0)
    born = case.birth is not None and case.birth.nan_born
    return born and isinstance(read, Tensor) and not read.numel()


def _by_one(place: int, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments:
    if isinstance(args[place], Tensor):
        return argument(place, lambda x: torch.where(x == 0, 1, x))(args, kwargs)
    return [*args[:place], args[place] or 1, *args[place + 1 :]], kwargs


def _summed(place: int, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments:
    if place >= len(args):
        return args, {**kwargs, "reduction": 2}
    return [*args[:place], 2, *args[place + 1 :]], kwargs


def _none(call: Call) -> bool:
    """Whether no label counts."""
    labels, weight, ignored = call.args[1], call.arg(2), call.arg(4, -100)
    kept = labels[labels != ignored]
    if not kept.numel():
        return True
    return isinstance(weight, Tensor) and bool((weight[kept] == 0).all())


def _counted(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments:
    """One label is class 0, and no class weighs nothing."""
    labels, weight, ignored = args[1].clone(), args[2], args[4] if len(args) > 4 else -100
    first = labels.flatten()[:1]
    labels.view(-1)[:1] = torch.where(first == ignored, 0, first)
    if isinstance(weight, Tensor):
        weight = torch.where(weight == 0, 1.0, weight)
    return [args[0], labels, weight, *args[3:]], kwargs
