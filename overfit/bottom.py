"""The least that a loss can be by its form, whatever stands before a model's last layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from probes.nested import tensors_in
from probes.seeding import kept_random_state
from probes.subject import Batch, Subject
from probes.undisturbed import undisturbed

STARTS = 3  # draws that the search begins at, beside the outputs as they are
ITERATIONS = 100
CLOSE = 0.02  # of the way from a draw to the least: as near as a second search has to come
LOOKS = ("T", "mT", "t", "view", "reshape", "transpose", "permute", "unsqueeze", "squeeze", "to")
"""What makes of a parameter the same numbers in another shape."""


@dataclass(frozen=True, slots=True)
class Bottom:
    """least: of the loss. alike: the loss with one row for all samples in place of what gives it.

    Both are means over the batches.
    """

    least: float
    alike: float


def bottom(subject: Subject, batches: Sequence[Batch]) -> Bottom | None:
    """The least loss that any outputs of the last layers give.

    What every operator with a parameter gives is freed, and the loss minimised over those numbers
    that it reads: contrastive losses of unit vectors, smoothed labels and margins stop above zero.
    None where a parameter reaches the loss by another way, where the loss has no least, and where
    no two searches end at the same, so that the best of them may just be stuck.
    """
    found = [_least(subject, batch) for batch in batches]
    known = [each for each in found if each is not None]
    if not known or len(known) < len(found):
        return None
    return Bottom(fmean(each.least for each in known), fmean(each.alike for each in known))


def _least(subject: Subject, batch: Batch) -> Bottom | None:
    freed = _Freed(subject, batch)
    if not freed.whole():
        return None
    found = [Bottom(_minimised(freed), freed.in_one_row())]
    began = -math.inf
    with kept_random_state():
        torch.manual_seed(0)
        for _ in range(STARTS):
            freed.draw()
            began = max(began, freed.total())
            found.append(Bottom(_minimised(freed), freed.in_one_row()))
    if not math.isfinite(began + sum(each.least for each in found)):
        return None
    best = min(found, key=lambda each: each.least)
    near = [each for each in found if each.least - best.least <= CLOSE * (began - best.least)]
    return best if len(near) > 1 else None


def _minimised(freed: _Freed) -> float:
    """The loss at the end of a search from the numbers as they are; NaN of one that gets lost."""
    search = torch.optim.LBFGS(freed.read, max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        search.zero_grad()
        with torch.enable_grad():
            total = freed.run()
        total.backward(inputs=freed.read)
        return total

    with suppress(RuntimeError):  # a step of it is too long for a float
        search.step(closure)
        return freed.total()
    return math.nan


@dataclass
class _Freed:
    """A subject's loss of one batch, over the outputs of the operators that hold a parameter.

    put: these numbers, one tensor an output, in the order of the calls. read: those of them that
    the loss has a gradient at.
    """

    subject: Subject
    batch: Batch
    put: list[Tensor] = field(default_factory=list)
    read: list[Tensor] = field(default_factory=list)

    def run(self) -> Tensor:
        """The loss with the numbers as they are now; the first time with the model's own."""
        model = self.subject.model
        with undisturbed(model), torch.enable_grad(), _Freeing(model, self.put):
            return self.subject.loss(model, self.batch)

    def whole(self) -> bool:
        """Whether the loss reads the freed numbers alone, and no parameter in another way."""
        total = self.run()
        if not total.requires_grad or total.numel() != 1:
            return False
        own = [each for each in self.subject.model.parameters() if each.requires_grad]
        slopes = torch.autograd.grad(total, [*self.put, *own], allow_unused=True)
        known = zip(self.put, slopes, strict=False)
        self.read = [values for values, slope in known if slope is not None]
        return bool(self.read) and all(each is None for each in slopes[len(self.put) :])

    def draw(self) -> None:
        """The numbers that the loss reads are drawn, as widely spread as they are."""
        with torch.no_grad():
            for values in self.read:
                spread = float(values.std()) if values.numel() > 1 else 0.0
                values.copy_(torch.randn_like(values) * (spread or 1.0))

    def total(self) -> float:
        """The loss as it is now."""
        return float(self.run().detach())

    def in_one_row(self) -> float:
        """The loss with the mean of all rows in place of each."""
        kept = [values.detach().clone() for values in self.read]
        with torch.no_grad():
            for values in self.read:
                values.copy_(values.mean(0, keepdim=True) if values.ndim else values)
            found = self.total()
            for values, before in zip(self.read, kept, strict=True):
                values.copy_(before)
        return found


class _Freeing(TorchFunctionMode):
    """Gives, in place of what an operator with a parameter gives, numbers that are free.

    They are the operator's own the first time, and the same tensors from then on.
    """

    def __init__(self, model: nn.Module, put: list[Tensor]) -> None:
        super().__init__()
        self.known: dict[int, Tensor] = {id(each): each for each in model.parameters()}
        self.put = put
        self.filled = bool(put)
        self.next = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The operator has run, where it holds no parameter; else its numbers are given."""
        out = func(*args, **(kwargs or {}))
        held = [each for each in tensors_in((args, kwargs or {})) if id(each) in self.known]
        if not held:
            return out
        name = getattr(func, "__name__", "")
        owner = getattr(getattr(func, "__self__", None), "__name__", "")  # `T` of a getter
        if {name, owner} & {*LOOKS}:
            self.known.update((id(each), each) for each in tensors_in(out))
            return out
        return self._replaced(out)

    def _replaced(self, out: Any) -> Any:
        if isinstance(out, tuple) and type(out) is tuple:
            return tuple(self._replaced(each) for each in out)
        if not isinstance(out, Tensor) or not out.is_floating_point():
            return out
        if not self.filled:
            self.put.append(out.detach().clone().requires_grad_())
        kept = self.put[self.next]
        if kept.shape != out.shape:
            raise ValueError("the operators are others than before")
        self.next += 1
        return kept.clone()
