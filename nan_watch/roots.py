"""The losses of a loop: what its backward passes start from, whichever way they are called."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from nan_watch.flags import Doubles
from nan_watch.inquest.captured import Captured
from nan_watch.zeroed import Zeroed

KEPT = 64  # of a step; where there are more, the oldest are forgotten
PLAIN = (Tensor, nn.Parameter)


class Roots:
    """Notes while it is open each single number that a backward pass of the step starts from.

    A loop that begins a pass while no parameter has a gradient has thrown away what it had: the
    passes before are no part of the step. parameters: those that are watched. asleep: whether
    passes are of no interest now, as those of a replay. `waiting` is what is to be read.
    `zeroed` knows which parameters the loss takes times 0.
    """

    def __init__(
        self,
        parameters: Callable[[], Sequence[Tensor]],
        captured: Captured,
        asleep: Callable[[], bool],
    ) -> None:
        self._parameters = parameters
        self._captured = captured
        self._asleep = asleep
        self.waiting: list[Tensor] = []
        self.zeroed = Zeroed()

    def __enter__(self) -> Self:
        """Every backward pass is seen."""
        if not _OPEN:
            _patch()
        _OPEN.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        """Nobody looks for us any more."""
        _OPEN.remove(self)
        if not _OPEN:
            _unpatch()

    def begins(self, tensors: Any, given: Any) -> None:
        """A backward pass begins at these tensors. given: gradients, as of a part of a pass."""
        if given is not None or torch.compiler.is_compiling() or self._asleep():
            return
        several = [tensors] if isinstance(tensors, Tensor) else tensors
        roots = [each for each in several if type(each) in PLAIN and each.numel() == 1]
        if not roots:
            return
        self.zeroed.look(roots)
        if all(parameter.grad is None for parameter in self._parameters()):
            self.waiting.clear()
            self._captured.marks.turns.forget()
        self.waiting = [*self.waiting, *(each.detach().reshape(()) for each in roots)][-KEPT:]
        if self._captured.on:
            self._captured.loss = roots[-1].grad_fn
            self._captured.marks.leave(roots[-1])

    def take(self, read: Doubles, *, excused: bool, sure: bool) -> float | None:
        """The first that is not finite of those that were read; the next step's are waited for.

        excused: whether the step's scale may have made infinities. sure: whether every pass is
        known to be the step's; a plain loop may have passes of other models, or of steps that it
        drops.
        """
        self.waiting = []
        self.zeroed.stepped()
        odd = np.isnan(read) if excused else ~np.isfinite(read)
        return next(iter(read[odd].tolist()), None) if sure else None


_OPEN: list[Roots] = []
_TORCHS: list[Any] = []


def _patch() -> None:
    own = torch.autograd.backward

    def backward(tensors: Any, grad_tensors: Any = None, *args: Any, **kwargs: Any) -> None:
        tensors = tensors if isinstance(tensors, Tensor) else list(tensors)
        for each in _OPEN:
            each.begins(tensors, grad_tensors)
        own(tensors, grad_tensors, *args, **kwargs)

    if "torch._dynamo" in sys.modules:  # a step that is compiled calls it from outside of it
        backward = torch.compiler.disable(backward)
    _TORCHS[:] = [own, backward]
    torch.autograd.backward = backward


def _unpatch() -> None:
    """Torch's own is back, unless somebody else has put theirs around it, and ours rests."""
    own, ours = _TORCHS
    if torch.autograd.backward is ours:
        torch.autograd.backward = own
