"""Which places of a loss that is taken place by place go into the sum: a mask comes after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from probes.scoring.calls import Call, Scoring
from probes.subject import Batch, Subject
from probes.undisturbed import undisturbed

DRAWS = 2  # of other values: what is kept for its size (the hardest examples) is kept in one


def weighed(
    subject: Subject, batch: Batch, calls: Sequence[Call], training: bool = False
) -> list[Call]:
    """The calls, without the places whose loss does not raise the subject's own.

    A place whose loss is multiplied by zero is not scored, and one by a negative number (an
    action of negative advantage) is no label to reach. The loss is run again with other values in
    place of each call's, so that what it weighs by its own size (focal loss) is told apart. The
    calls as they are where the loss cannot be followed, and where none of a call's places would
    be left.
    """
    if not any(call.by_place for call in calls):
        return list(calls)
    raises: list[Tensor | None] = [None] * len(calls)
    for _ in range(DRAWS):
        found = list(_signs(subject, batch, training))
        if len(found) != len(calls):
            return list(calls)
        raises = [_either(one, other) for one, other in zip(raises, found, strict=True)]
    return [
        call if up is None else _narrowed(call, up) for call, up in zip(calls, raises, strict=True)
    ]


def _signs(subject: Subject, batch: Batch, training: bool) -> Iterator[Tensor | None]:
    """Of every call, where a larger loss makes the subject's larger; None where unknown."""
    try:
        with undisturbed(subject.model, training), torch.enable_grad(), _Replacing() as mode:
            total = subject.loss(subject.model, batch)
            kept = [each for each in mode.put if each is not None]
            slopes = iter(torch.autograd.grad(total, kept, allow_unused=True))
    except Exception:  # a loss of the user's own making may not stand it
        return
    for each in mode.put:
        slope = None if each is None else next(slopes)
        yield None if slope is None else slope > 0


def _either(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None or one.shape != other.shape:
        return other if one is None else one
    return one | other


def _narrowed(call: Call, up: Tensor) -> Call:
    counted = call.counted & up.to(call.counted.device)
    return replace(call, counted=counted) if bool(counted.any()) else call


class _Replacing(Scoring):
    """Hands the loss's code other numbers in place of what a call gives place by place.

    put: of every call, the numbers; None where it gave a mean.
    """

    def __init__(self) -> None:
        super().__init__()
        self.put: list[Tensor | None] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The function has run; its numbers are replaced."""
        before = len(self.calls)
        out = super().__torch_function__(func, types, args, kwargs)
        if len(self.calls) == before:
            return out
        if self.calls[-1].by_place:
            out = torch.rand_like(out.detach()).add_(0.5).requires_grad_()
            self.put.append(out)
        else:
            self.put.append(None)
        return out
