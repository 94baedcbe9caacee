"""NAN022: an autograd function of the user's own gives it in its backward."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from nan_watch.case.material import Case
from nan_watch.case.naming import told
from probes.finding import Finding


@dataclass(frozen=True, slots=True)
class CustomFunction:
    """What is not finite is born in a custom function's backward, or in a hook on a gradient.

    What stands there is not torch's own derivative but code of the user's: the operator and the
    line within it are named. `torch.autograd.gradcheck` compares it with finite differences.

    Sick:    `def backward(ctx, grad): (x,) = ctx.saved_tensors; return grad / x.abs()`
    Healthy: `return grad / x.abs().clamp(min=eps)`
    """

    code: ClassVar[str] = "NAN022"
    rule: ClassVar[str] = "custom-function"
    family: ClassVar[Literal["cause"]] = "cause"

    def lacks(self, case: Case) -> str | None:
        """The origin."""
        return case.lacks_origin

    def judge(self, case: Case) -> Iterator[Finding]:
        """The operator and the line in the user's backward."""
        if case.is_backward and case.birth is not None and case.birth.place.custom:
            yield told(
                self,
                case,
                "in a backward pass, or hook, of your own gives what is not finite",
                f"Mend the derivative at {case.birth.place.source}, and check it with "
                "`torch.autograd.gradcheck` at the edge of its domain.",
            )
