"""Where an exact zero comes from: the operator that made it of numbers that were none."""

from __future__ import annotations

from nan_watch.case.arguments import CARRY, maker
from nan_watch.origin.closeup import Call, Made

SCALED = frozenset(  # zero of zero, whatever else they read
    f"aten.{name}"
    for name in (
        *("abs", "asinh", "atan", "div", "erf", "expm1", "log1p", "mul", "neg", "pow", "sin"),
        *("sinh", "sqrt", "square", "tan", "tanh", "linalg_vector_norm", "norm"),
    )
)
SUMMED = frozenset(  # zero of zeros alone, where none of what they read is under zero
    f"aten.{name}" for name in ("sum", "mean", "amax", "max", "cumsum", "nansum")
)
GATES = ("aten.relu", "aten.threshold", "aten.clamp", "aten.clamp_min", "aten.hardtanh")


def zero_of(call: Call, place: int = 0, *, sums: bool = True) -> Made | None:
    """Who made the zero at the place; None if nobody in the step.

    Past operators that carry, scale or, with `sums`, sum up zeros, as long as only one of those
    that made what they read has any.
    """
    made, passed = call.made.get(place), CARRY | SCALED | SUMMED if sums else CARRY | SCALED
    while made is not None and _op(made) in passed:
        before = [each for each in made.parents if each.zeros]
        if len(before) != 1 or (_op(made) in SUMMED and not before[0].above):
            dropped = _op(made) == "aten.native_dropout" and not before
            return made if dropped or _op(made) not in CARRY else maker(call, place)
        made = before[0]
    return made


def gave(made: Made | None) -> str:
    """`, which `aten.relu` at train.py:3 gave`; nothing where nobody did, or no line is known."""
    if made is None or made.source is None:
        return ""
    return f", which `{made.op}` at {made.source} gave"


def kept_over(call: Call, place: int = 0) -> str | None:
    """How the zero is kept off where it is cut off, past no sum; None where it is not cut off."""
    made = zero_of(call, place, sums=False)
    if made is None or made.source is None or _op(made) not in GATES:
        return None
    return (
        f"At {made.source}, keep what `{made.op}` gives over 0: `F.softplus(x) + eps` in its "
        "place, or `.clamp(min=eps)` behind it, with an eps near the least value that makes sense: "
        "1 / 1e-9 is finite, but so large that the step is of no use."
    )


def _op(made: Made) -> str:
    return made.op.removesuffix("_")
