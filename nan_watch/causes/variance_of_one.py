"""NAN012: the unbiased variance of one element."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from nan_watch.case.arguments import dims
from nan_watch.case.material import Case
from nan_watch.case.naming import told
from nan_watch.case.trial import Patch
from nan_watch.origin.closeup import Call
from probes.finding import Evidence, Finding
from probes.patch import Arguments, Edited

SPREADS = ("aten.var", "aten.std", "aten.var_mean", "aten.std_mean")


@dataclass(frozen=True, slots=True)
class VarianceOfOne:
    """An unbiased variance, or standard deviation, is taken of one element: n - 1 is zero.

    torch divides by n - 1 unless told otherwise: 0 / 0 for a single sample, step or channel. The
    last batch of an epoch, when it holds one sample, is the common place.

    Sick:    `x.std(dim=0)` of a batch of one
    Healthy: `x.std(dim=0, unbiased=False)`, or `DataLoader(..., drop_last=True)`
    """

    code: ClassVar[str] = "NAN012"
    rule: ClassVar[str] = "variance-of-one"
    family: ClassVar[Literal["cause"]] = "cause"

    def lacks(self, case: Case) -> str | None:
        """The origin."""
        return case.lacks_origin

    def judge(self, case: Case) -> Iterator[Finding]:
        """The call, and how many elements it had."""
        call = case.call
        if call is None or case.op not in SPREADS:
            return
        count, correction = _count(call), _correction(call.kwargs, call.args)
        if count is not None and count <= correction:
            yield told(
                self,
                case,
                f"is taken over {count} element{'' if count == 1 else 's'}, and divides by n - "
                f"{correction:g}",
                "Give `unbiased=False`, or see to it that there are at least two: "
                "`drop_last=True` where the last batch holds one sample.",
                Evidence("elements", count, correction + 1),
            )

    def patches(self, case: Case) -> Iterator[Patch]:
        """The same step without the correction; then so wherever as few elements are spread."""
        if case.call is not None and case.trial is not None:
            yield case.trial.edit("divided by n instead", case.call, _uncorrected)
            yield Patch(
                "divided by n instead, wherever there are too few elements",
                lambda: [Edited(SPREADS.__contains__, _uncorrected_of_few)],
                lambda: [Edited(SPREADS.__contains__, lambda args, kwargs: (args, kwargs))],
            )


def _count(call: Call) -> int | None:
    values = call.values(0)
    return None if values is None else _elements(values, call.arg(1))


def _elements(values: Tensor, named: Any) -> int:
    over = dims(None if isinstance(named, bool) else named, values.ndim)
    return math.prod(values.shape[axis] for axis in over)


def _correction(kwargs: Mapping[str, Any], args: Sequence[Any]) -> float:
    """What is taken off n below: the keyword's number, or 1 unless `unbiased` is false."""
    given = kwargs.get("correction")
    flags = [each for each in args[1:] if isinstance(each, bool)]
    if given is None and "correction" not in kwargs and flags:
        return float(flags[0])
    return 1.0 if given is None else float(given)


def _uncorrected(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments:
    """A flag among the arguments is `unbiased`; without one there is the keyword `correction`."""
    if any(isinstance(each, bool) for each in args):
        return [False if isinstance(each, bool) else each for each in args], kwargs
    return args, {**kwargs, "correction": 0}


def _uncorrected_of_few(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments:
    elements = _elements(args[0], args[1] if len(args) > 1 else None)
    return (args, kwargs) if elements > _correction(kwargs, args) else _uncorrected(args, kwargs)
