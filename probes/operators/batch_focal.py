"""Focal factors that are made of one number for all samples: a cross entropy's mean."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from probes.bus import hook_gradient
from probes.raised import source_here
from probes.running import names_of, running
from probes.softmaxes.formed import LOG_SOFTMAX, LOGSIGMOID

ENTROPIES = (
    *(F.cross_entropy, F.nll_loss),
    *(F.binary_cross_entropy, F.binary_cross_entropy_with_logits),
)
REDUCTIONS = {"mean", "sum"}
CARRY = {"mul", "rmul", "multiply", "div", "truediv", "divide", "true_divide", "neg", "negative"}
CARRY |= {"clamp", "clamp_min", "clamp_max", "clone", "float", "double", "to", "type_as"}
POWERS = {"pow", "square", "sqrt"}
SMALL = 1e-5

Kind = Literal["each", "all", "probability", "rest"]


@dataclass(eq=False)
class Focal:
    """A cross entropy that was reduced to one number.

    value: that number. each: those that it is of. source: the line that reduces it. weighed: the
    line that multiplies it by a power of 1 - exp(-value), of the same. reaches: the loss hangs on
    what that gave.
    """

    value: float
    each: Tensor
    site: str
    source: str | None
    weighed: str | None = None
    reaches: bool = False


Known = tuple[Kind, Focal | None]


class BatchFocals(TorchFunctionMode):
    """While it is entered, what becomes of cross entropies is followed up to such a product.

    Followed is what has a gradient: a weight that is held is one that somebody has thought of.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._names = names_of(model)
        self._known = WeakTensorKeyDictionary()
        self._found: list[Focal] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The function's result; what it was given was looked at."""
        given = dict(kwargs or {})
        out = func(*args, **given)
        if isinstance(out, Tensor) and out.requires_grad and out.is_floating_point():
            after = self._after(func, args, given, out)
            if after is not None:
                self._known[out] = after
        return out

    def found(self, samples: int) -> tuple[Focal, ...]:
        """The first of each line, but where there is one a sample, as in a loop over them."""
        lines: dict[tuple[str, str | None], list[Focal]] = {}
        for each in self._found:
            lines.setdefault((each.site, each.source), []).append(each)
        few = [found for found in lines.values() if len(found) < samples]
        weighed = [[each for each in found if each.weighed and each.reaches] for found in few]
        return tuple(found[0] for found in weighed if found)

    def _after(
        self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor
    ) -> Known | None:
        """What the result is, where that is known."""
        name = getattr(func, "__name__", "").strip("_")
        if func in ENTROPIES:
            return self._entropy(func, args, kwargs, out)
        if func in LOG_SOFTMAX + LOGSIGMOID:
            return "each", None
        known = [(each, self._known[each]) for each in args if _is_in(each, self._known)]
        if not known:
            return None
        first, (kind, focal) = known[0]
        if kind == "each":
            if out.ndim:
                return "each", None
            reduces = name in REDUCTIONS and first.numel() > 1
            return self._reduced(first.detach(), out) if reduces else None
        if len(known) > 1:
            return self._product(name, [each[1] for each in known], out)
        return self._single(name, kind, focal, float(first.detach().flatten()[0]), args, out)

    def _entropy(
        self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor
    ) -> Known | None:
        if out.ndim:
            return "each", None
        bound = inspect.signature(func).bind(*args, **kwargs)
        given, labels = bound.arguments, bound.arguments["target"]
        if not isinstance(labels, Tensor) or labels.numel() < 2:
            return None
        if func is F.cross_entropy and labels.is_floating_point() and labels.ndim < 2:
            return None  # shares of the classes of one sample
        given |= {"reduction": "none", "size_average": None, "reduce": None}
        with torch.no_grad():
            each = func(**given)
        return self._reduced(each, out) if each.numel() > 1 else None

    def _reduced(self, each: Tensor, out: Tensor) -> Known:
        site = running(self._names) or "<loss>"
        focal = Focal(float(out.detach()), each, site, source_here())
        self._found.append(focal)
        return "all", focal

    def _single(
        self,
        name: str,
        kind: Kind,
        focal: Focal | None,
        value: float,
        args: Sequence[Any],
        out: Tensor,
    ) -> Known | None:
        """What a function makes of one that is known, and of nothing else that is."""
        now = float(out.detach().flatten()[0]) if out.numel() else 0.0
        if kind == "all" and name == "exp" and value <= 0:
            return "probability", focal
        if kind == "probability" and name in ("sub", "rsub", "subtract", "add"):
            return ("rest", focal) if abs(now + value - 1) <= SMALL else None
        if name in CARRY or (kind == "rest" and name in POWERS):
            return kind, focal
        return None

    def _product(self, name: str, known: Sequence[Known], out: Tensor) -> Known | None:
        """The rest of a number's probability, times that number."""
        (one, focal), (two, other) = known[:2]
        if (
            focal is None
            or focal is not other
            or name not in CARRY
            or {one, two} != {"rest", "all"}
        ):
            return None
        focal.weighed = source_here()

        def arrived(grad: Tensor | None) -> None:
            focal.reaches = focal.reaches or grad is not None

        hook_gradient(out, arrived)
        return None


def _is_in(value: Any, known: WeakTensorKeyDictionary) -> bool:
    return isinstance(value, Tensor) and value in known
