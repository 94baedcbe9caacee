"""NAN015: a loss scale overflows the gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from nan_watch.case.material import Case
from nan_watch.case.naming import told
from nan_watch.case.trial import Patch
from nan_watch.origin.closeup import Made
from nan_watch.origin.find import Origin
from probes.finding import Evidence, Finding
from probes.patch import Arguments, Edited

SCALING = ("MulBackward0", "aten.mul")
SEED = "aten.ones_like"


@dataclass(frozen=True, slots=True)
class LossScaleOverflow:
    """The loss is multiplied by a large scale, and gradients in half precision overflow.

    That is the mechanism of `torch.amp.GradScaler` at work: it looks for such gradients, skips
    the step and halves its scale. It is a fault only where nobody skips: an optimizer that is
    stepped past the scaler, or a scale of one's own that never falls.

    Sick:    `scaler.scale(loss).backward(); optimizer.step()`
    Healthy: `scaler.scale(loss).backward(); scaler.step(optimizer); scaler.update()`
    """

    scale: float = 16.0

    code: ClassVar[str] = "NAN015"
    rule: ClassVar[str] = "loss-scale-overflow"
    family: ClassVar[Literal["cause"]] = "cause"

    def lacks(self, case: Case) -> str | None:
        """The origin."""
        return case.lacks_origin

    def judge(self, case: Case) -> Iterator[Finding]:
        """The scale, and the first gradient that it overflows."""
        scale = self._scale(case)
        if scale is not None:
            yield told(
                self,
                case,
                f"overflows half precision on its way back, under a loss scale of {scale:g}",
                "Let the scaler take the step: `scaler.step(optimizer); scaler.update()`; it "
                "skips such steps and lowers the scale. A fixed scale has to be lowered by hand.",
                Evidence("loss scale", scale, self.scale),
            )

    def patches(self, case: Case) -> Iterator[Patch]:
        """The same step with a loss scale of 1."""
        if case.trial is not None:
            yield Patch(
                "with a loss scale of 1",
                lambda: [Edited(first_product(), unscaled)],
                lambda: [Edited(first_product(), lambda args, kwargs: (args, kwargs))],
            )

    def _scale(self, case: Case) -> float | None:
        """What the loss was multiplied by, where a half overflowed in the backward pass."""
        if case.origin is None or not overflows_half(case.origin):
            return None
        scales = (made.largest for made in _line(case.origin) if _is_scaling(made))
        return next((s for s in scales if s is not None and s >= self.scale), None)


def overflows_half(origin: Origin) -> bool:
    """Whether it was born in a backward pass, of numbers of 16 bits or near them."""
    if origin.closeup is None or origin.culprit.phase != "backward":
        return False
    half = [t.dtype.itemsize for t in origin.closeup.birth.tensors if t.is_floating_point()]
    return 2 in half or any(made.dtype.itemsize == 2 for made in _line(origin)[:8])


def _line(origin: Origin) -> list[Made]:
    made = () if origin.closeup is None else origin.closeup.birth.made.values()
    return [each for every in made for each in every.line()]


def _is_scaling(made: Made) -> bool:
    return (made.node, made.op) == SCALING and any(p.op == SEED for p in made.parents)


def first_product() -> Any:
    """Whether it is the first product in the backward pass: that of the loss and its scale."""
    left = [True]

    def chosen(op: str) -> bool:
        node = torch._C._current_autograd_node()
        if node is None or op != SCALING[1] or node.name() != SCALING[0]:
            return False
        return left.pop() if left else False

    return chosen


def unscaled(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments:
    """The product's arguments, with a one for the scale."""
    first, other, *rest = args
    return [
        first,
        torch.ones_like(other) if isinstance(other, torch.Tensor) else 1.0,
        *rest,
    ], kwargs
