"""What the loss of CTC was handed, with the line that calls it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CTC = ("log_probs", "targets", "input_lengths", "target_lengths", "blank", "_", "zero_infinity")


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


def aligned(args: Sequence[Any], given: Mapping[str, Any], line: str | None) -> Aligned | None:
    """The call of CTC's loss, of a batch; None where it was called otherwise."""
    held = {**dict(zip(CTC, args, strict=False)), **given}
    scores, targets = held.get("log_probs"), held.get("targets")
    if not isinstance(scores, Tensor) or not isinstance(targets, Tensor) or scores.ndim != 3:
        return None
    frames, letters = (torch.as_tensor(held[name]).detach().cpu() for name in CTC[2:4])
    blank, lenient = int(held.get("blank", 0)), bool(held.get("zero_infinity", False))
    return Aligned(scores, targets.detach().cpu(), frames, letters, blank, lenient, line)
