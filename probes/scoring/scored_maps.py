"""Sees where the loss holds a map of targets against a prediction that lies in the same places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from probes.modules import every_module
from probes.raised import source_here
from probes.running import names_of, running

OF_CLASSES = (F.cross_entropy, F.nll_loss)
LOSSES = (
    *OF_CLASSES,
    *(F.binary_cross_entropy_with_logits, F.binary_cross_entropy, F.kl_div),
    *(F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss),
)
TERMS = {"sub", "__sub__", "rsub", "__rsub__", "mul", "__mul__", "rmul", "__rmul__"}
LEAST = 4  # cells along either side
CHANNELS = 32


@dataclass(frozen=True, slots=True)
class Key:
    """The so-and-so-many-th use of a function by a line of the subject's code."""

    name: str
    line: str | None
    nth: int


@dataclass(frozen=True, slots=True, eq=False)
class ScoredMap:
    """A prediction and its targets, both (sample, row, column, number), of as many places.

    Of targets that are classes there is a number for each class. Of a prediction that is taken at
    some of its places the targets are 1 there, and 0 elsewhere.
    """

    prediction: Tensor
    targets: Tensor


class ScoredMaps(TorchFunctionMode):
    """While it is entered, keeps all of those of square maps by where they are used."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.found: dict[Key, ScoredMap] = {}
        self._names, self._root = names_of(model), next(every_module(model))[0]
        self._count: Counter[tuple[str, str | None]] = Counter()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The function's result."""
        given = dict(kwargs or {})
        found = _scored(func, args, given)
        if found is not None and running(self._names) in (None, self._root):
            place = getattr(func, "__name__", ""), source_here()
            self.found[Key(*place, self._count[place])] = found
            self._count[place] += 1
        return func(*args, **given)


def _scored(func: Any, args: Sequence[Any], given: Mapping[str, Any]) -> ScoredMap | None:
    name = getattr(func, "__name__", "")
    if func in LOSSES:
        named = {**dict(zip(("input", "target"), args, strict=False)), **given}
        one, two = named.get("input"), named.get("target")
        if not isinstance(one, Tensor) or not isinstance(two, Tensor):
            return None
        is_classes = func in OF_CLASSES and not two.is_floating_point()
        return _of_classes(one, two) if is_classes else _of_pair(one, two)
    if len(args) < 2 or not isinstance(args[0], Tensor):
        return None
    if name in TERMS and isinstance(args[1], Tensor):
        one, two = args[:2]
        return _of_pair(one, two) if one.requires_grad else _of_pair(two, one)
    if name == "__getitem__" and args[0].requires_grad:
        return _of_places(args[0], args[1])
    return None


def _of_pair(prediction: Tensor, targets: Tensor) -> ScoredMap | None:
    if not prediction.requires_grad or targets.requires_grad or prediction.shape != targets.shape:
        return None
    at = _square(prediction.shape, targets.shape)
    if at is None or prediction.is_complex() or targets.is_complex():
        return None
    return ScoredMap(_last(prediction, at), _last(targets, at))


def _of_classes(scores: Tensor, classes: Tensor) -> ScoredMap | None:
    if not scores.requires_grad or scores.ndim != 4 or scores.shape[1] > CHANNELS:
        return None
    at = _square(scores.shape[2:], classes.shape[1:], first=0)
    if at is None or classes.ndim != 3:
        return None
    known = torch.arange(scores.shape[1], device=classes.device)
    return ScoredMap(_last(scores, 2), (classes[..., None] == known).float().cpu())


def _of_places(prediction: Tensor, index: Any) -> ScoredMap | None:
    """`prediction[mask]`, or `prediction[sample, ..., row, column]` of as many integers each."""
    if isinstance(index, Tensor) and index.dtype is torch.bool:
        at = _square(prediction.shape, index.shape)
        return None if at is None else ScoredMap(_last(prediction, at), _last(index, at))
    if not isinstance(index, tuple) or len(index) < 3:
        return None
    at = _square(prediction.shape, prediction.shape[: len(index)])
    ids = [] if at is None else [index[0], index[at], index[at + 1]]
    whole = [i for i in ids if isinstance(i, Tensor) and not i.is_floating_point() and i.ndim == 1]
    if at is None or len(whole) != 3 or len({len(i) for i in whole}) != 1:
        return None
    if any(i.dtype is torch.bool for i in whole):
        return None
    targets = torch.zeros(len(prediction), *prediction.shape[at : at + 2], 1, device="cpu")
    sample, row, column = (i.detach().cpu().long() for i in whole)
    targets[sample, row, column] = 1
    return ScoredMap(_last(prediction, at), targets)


def _square(shape: Sequence[int], other: Sequence[int], first: int = 1) -> int | None:
    """Which axis is the first of two that are equally long in both; None if none is, or several."""
    if tuple(shape[: len(other)]) != tuple(other):
        return None
    found = [
        i for i in range(first, len(other) - 1) if other[i] == other[i + 1] and other[i] >= LEAST
    ]
    return found[0] if len(found) == 1 else None


def _last(values: Tensor, at: int) -> Tensor:
    """(sample, row, column, number) on the CPU, of some channels."""
    held = values.detach().movedim((at, at + 1), (1, 2)).flatten(3) if values.ndim > 3 else values
    held = held[..., :CHANNELS] if values.ndim > 3 else held.detach()[..., None]
    return held.float().cpu().clone()
