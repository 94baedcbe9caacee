"""NAN005: a branch that is not taken has an infinite derivative."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from nan_watch.case.material import Case
from nan_watch.case.naming import told
from nan_watch.case.trial import Patch
from nan_watch.origin.closeup import Closeup, Made
from probes.finding import Finding
from probes.patch import argument

HEALERS = (
    *("aten.where", "aten.masked_fill", "aten.clamp", "aten.clamp_min", "aten.clamp_max"),
    *("aten.maximum", "aten.minimum", "aten.nan_to_num", "aten.relu"),
)
NEAR = 12


@dataclass(frozen=True, slots=True)
class HiddenBranch:
    """A choice hides a value whose derivative is not finite, and 0 x inf is NaN.

    `where(x > 0, x.sqrt(), 0)` computes the root of everything, at 0 too, and picks afterwards.
    The branch that is not taken gets the gradient 0, which its infinite derivative turns into
    NaN. The forward pass looks perfect. Clamping after the function hides in the same way.

    Sick:    `torch.where(x > 0, x.sqrt(), 0.0)`
    Healthy: `torch.where(x > 0, torch.where(x > 0, x, 1.0).sqrt(), 0.0)`
    """

    code: ClassVar[str] = "NAN005"
    rule: ClassVar[str] = "hidden-branch"
    family: ClassVar[Literal["cause"]] = "cause"

    def lacks(self, case: Case) -> str | None:
        """The origin."""
        return case.lacks_origin

    def judge(self, case: Case) -> Iterator[Finding]:
        """The operator that is hidden, and what hides it."""
        closeup = None if case.origin is None else case.origin.closeup
        if closeup is None or closeup.forward is None:
            return
        choice = _choice(closeup) or _hiding(case)
        if choice is not None:
            name = choice.removesuffix("Backward0").removesuffix("Backward1")
            yield told(
                self,
                case,
                f"has a derivative that is not finite where `{name}` hides its value: the gradient "
                "0 times it is NaN",
                "Keep the argument off its edge before the function, not its value after it: "
                "`torch.where(ok, torch.where(ok, x, 1.0).sqrt(), 0.0)`.",
            )

    def patches(self, case: Case) -> Iterator[Patch]:
        """The same step with 1 for what is hidden, before the function."""
        closeup = None if case.origin is None else case.origin.closeup
        if closeup is None or closeup.forward is None or case.trial is None:
            return
        bad = closeup.birth.bad()

        def safe(values: Tensor) -> Tensor:
            if bad is None:
                return values
            hidden = bad.expand(torch.broadcast_shapes(bad.shape, values.shape)).double()
            return torch.where(hidden.sum_to_size(values.shape) > 0, 1.0, values)

        words = "with 1 for what is hidden, before the function"
        yield case.trial.edit(words, closeup.forward, argument(_place(closeup), safe))


def _place(closeup: Closeup) -> int:
    """Which argument of the forward call has the shape of what was born."""
    assert closeup.forward is not None
    if closeup.forward.op.startswith("aten.div"):
        return 1
    bad = closeup.birth.bad()
    fits = (
        i
        for i in range(len(closeup.forward.args))
        if (v := closeup.forward.values(i)) is not None and bad is not None and v.shape == bad.shape
    )
    return max(fits, default=0)


def _choice(closeup: Closeup) -> str | None:
    """The choice in whose backward the zeros were made that the birth read, if they were."""
    for place, made in closeup.birth.made.items():
        values = closeup.read_at_bad(place)
        if values is not None and bool((values == 0).all()):
            found = _made_by_choice(made)
            if found is not None:
                return found
    return None


def _hiding(case: Case) -> str | None:
    """The choice that healed, in the forward pass, what the operator gave there."""
    origin = case.origin
    if origin is None or origin.hidden is None:
        return None
    carried = {origin.hidden.index}
    for event in origin.events:
        if event.phase == "forward" and any(carried & set(read.writers) for read in event.reads):
            if (event.op or "").removesuffix("_") in HEALERS:
                return (event.op or "").removeprefix("aten.")
            carried.add(event.index)
    return None


def _made_by_choice(made: Made) -> str | None:
    for number, each in enumerate(made.line()):
        if number >= NEAR or each.node is None:
            return None
        if each.hides:
            return each.node
    return None
