"""NAN001: the log of zero."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from nan_watch.case.arguments import at, just_over, maker
from nan_watch.case.material import Case
from nan_watch.case.naming import told
from nan_watch.case.trial import Patch
from nan_watch.case.zeros import kept_over, zero_of
from nan_watch.origin.closeup import Made
from probes.finding import Finding
from probes.patch import LogOfSoftmax, argument

LOGS = {  # operator -> place of the argument, and its edge
    **dict.fromkeys(("aten.log", "aten.log2", "aten.log10"), (0, 0.0)),
    "aten.log1p": (0, -1.0),
    "aten.xlogy": (1, 0.0),
    "aten.special_entr": (0, 0.0),
    "aten.special_xlog1py": (1, -1.0),
}
SOFTMAX = ("aten._softmax", "aten._safe_softmax", "aten.sigmoid")
RESTS = ("aten.rsub", "aten.neg")  # 1 - p, and the -p of log1p


@dataclass(frozen=True, slots=True)
class LogOfZero:
    """A log is taken of exactly zero.

    log 0 is -inf, and its derivative 1 / 0. A softmax gives an exact zero wherever a score lies
    104 or more under the largest (float32; 18 in half precision), and a sigmoid where its input
    does: no zero need stand in the data. Just above it, under 1e-38, 1 / x is infinite as well.
    Zero times that -inf is NaN, which is how an entropy or a label that is 0 bears it.

    Sick:    `loss = -(p.softmax(-1).log() * onehot).sum()`
    Healthy: `loss = -(p.log_softmax(-1) * onehot).sum()`
    """

    code: ClassVar[str] = "NAN001"
    rule: ClassVar[str] = "log-of-zero"
    family: ClassVar[Literal["cause"]] = "cause"

    def lacks(self, case: Case) -> str | None:
        """The origin."""
        return case.lacks_origin

    def judge(self, case: Case) -> Iterator[Finding]:
        """The log, and where its zero came from."""
        if case.call is None or case.op not in LOGS:
            return
        place, edge = LOGS[case.op]
        values = case.at_bad(place)
        if values is None or not at(values, edge).any():
            return
        made, softmax = maker(case.call, place), log_of_softmax(case)
        if softmax is None:
            zero = zero_of(case.call, place) if edge == 0 else made
            fix = (kept_over(case.call, place) if edge == 0 else None) or _kept_off(case.op)
            by = f", which {_said(zero)} gave" if zero is not None else ""
            yield told(self, case, f"takes the log of 0{by}", fix)
        elif softmax is made:
            what = f"takes the log of 0, to which {_said(made)} underflowed"
            yield told(self, case, what, _instead(made, case.op))
        else:
            what = f"takes the log of 1 - 1, as {_said(softmax)} saturated at 1"
            yield told(self, case, what, _instead(softmax, case.op))

    def patches(self, case: Case) -> Iterator[Patch]:
        """The log of softmax in one; failing that, the argument kept off zero."""
        call, trial = case.call, case.trial
        if call is None or trial is None or case.op is None:
            return
        place, edge = LOGS[case.op]
        here = trial.at(call)
        if log_of_softmax(case) is not None:
            yield Patch(
                "with the log of softmax computed in one",
                lambda: [LogOfSoftmax(lambda: here(call.op))],
                lambda: [LogOfSoftmax(lambda: not here(call.op))],
            )

        def keep(values: Tensor) -> Tensor:
            return just_over(values, edge)

        yield trial.edit("with the argument kept off zero", call, argument(place, keep))


def log_of_softmax(case: Case) -> Made | None:
    """The softmax, or sigmoid, whose log, or whose rest's log, the case takes."""
    if case.call is None or case.op not in LOGS:
        return None
    made = maker(case.call, LOGS[case.op][0])
    if made is None or made.op in SOFTMAX:
        return made
    rest = made.parents[0] if made.op in RESTS and made.parents else None
    return rest if rest is not None and rest.op == "aten.sigmoid" else None


def _kept_off(op: str | None) -> str:
    if op in ("aten.log1p", "aten.special_xlog1py"):
        return (
            "Keep the argument over -1: `x.clamp(min=0).log1p()` for counts; where -1 stands for "
            "what is missing, mask it before."
        )
    return (
        "Keep the argument off zero: `x.clamp(min=eps).log()`, with an eps that the dtype holds "
        "(1e-8 is 0 in float16)."
    )


def _said(made: Made) -> str:
    return f"`{made.op}`" + (f" at {made.source}" if made.source else "")


def _instead(made: Made, op: str) -> str:
    if made.op == "aten.sigmoid":
        return (
            "Write `F.logsigmoid(x)` for `x.sigmoid().log()` and `F.logsigmoid(-x)` for the log of "
            "its rest, or give the logits to `F.binary_cross_entropy_with_logits`."
        )
    if op == "aten.special_entr":
        return "Write `-(p * x.log_softmax(dim))` for `torch.special.entr(p)` of `x.softmax(dim)`."
    return "Write `x.log_softmax(dim)` for `x.softmax(dim).log()`."
