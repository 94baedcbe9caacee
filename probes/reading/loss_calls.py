"""What the loss functions of torch were handed, with the line that calls them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CLASSES = ("cross_entropy", "nll_loss")
CTC = ("log_probs", "targets", "input_lengths", "target_lengths", "blank", "_", "zero_infinity")


@dataclass(frozen=True, slots=True, eq=False)
class Classed:
    """Scores of classes and the integers that are wanted of them.

    axis: of the classes. ignored: the integer that stands for no label.
    """

    op: str
    order: int
    scores: Tensor
    wanted: Tensor
    axis: int
    ignored: int
    line: str | None

    @property
    def rows(self) -> Tensor:
        """(place, class) with the places in the order of `wanted`."""
        return self.scores.movedim(self.axis, -1).reshape(-1, self.scores.shape[self.axis])


@dataclass(frozen=True, slots=True, eq=False)
class Aligned:
    """What the loss of CTC was handed: (time, sample, class), and targets with both lengths.

    lenient: whether a target without an alignment counts as a loss of zero.
    """

    log_probs: Tensor
    targets: Tensor
    input_lengths: Tensor
    target_lengths: Tensor
    blank: int
    lenient: bool
    line: str | None

    @property
    def texts(self) -> list[Tensor]:
        """The targets of every sample, within its length."""
        return within(self.targets, self.target_lengths)


def within(targets: Tensor, lengths: Tensor) -> list[Tensor]:
    """Targets, (sample, place) or one after the other, each within its length."""
    each = [int(length) for length in lengths.reshape(-1)]
    if targets.ndim == 1:
        return list(targets.split(each)) if sum(each) == len(targets) else []
    return [row[:length] for row, length in zip(targets, each, strict=False)]


def classed(
    name: str, args: Sequence[Any], given: Mapping[str, Any], order: int, line: str | None
) -> Classed | None:
    """The call of a loss of classes; None where what is wanted are no integers."""
    scores = args[0] if args else given.get("input")
    wanted = args[1] if len(args) > 1 else given.get("target")
    if not isinstance(scores, Tensor) or not isinstance(wanted, Tensor):
        return None
    if wanted.is_floating_point() or not scores.ndim or wanted.ndim != scores.ndim - 1:
        return None
    at = 5 if name == "nll_loss" else 4
    ignored = args[at] if len(args) > at else given.get("ignore_index", -100)
    axis = 0 if scores.ndim == 1 else 1
    return Classed(name, order, scores, wanted.detach().cpu(), axis, int(ignored), line)


def aligned(args: Sequence[Any], given: Mapping[str, Any], line: str | None) -> Aligned | None:
    """The call of CTC's loss, of a batch; None where it was called otherwise."""
    held = {**dict(zip(CTC, args, strict=False)), **given}
    scores, targets = held.get("log_probs"), held.get("targets")
    if not isinstance(scores, Tensor) or not isinstance(targets, Tensor) or scores.ndim != 3:
        return None
    frames, letters = (torch.as_tensor(held[name]).detach().cpu() for name in CTC[2:4])
    blank, lenient = int(held.get("blank", 0)), bool(held.get("zero_infinity", False))
    return Aligned(scores, targets.detach().cpu(), frames, letters, blank, lenient, line)
