"""Samples that are mixed in the loss: whose input a row of the output holds, and whose label."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from probes.bus import Kind
from probes.experiment import Experiment
from probes.reading.alive import Alive, alive
from probes.scoring.meeting import Meeting

LEAST = 2  # samples; partners that are drawn twice may agree now and then
SMALL = 1e-5  # of the largest number: less does not count as moved


@dataclass(frozen=True, slots=True)
class Mixed:
    """Two rows of an output, beside its own, of a sample: one it is mixed into, one its label is.

    samples: those of which it is so.
    """

    sample: int
    read: int
    scored: int
    samples: tuple[int, ...]


def mixed_apart(experiment: Experiment, meeting: Meeting) -> Mixed | None:
    """Samples that are mixed into rows whose loss does not hold their label, but others' does.

    Asked only where the loss draws numbers, as a mixture does.
    """
    if not experiment.is_random:
        return None
    seen, found = alive(experiment), list[tuple[int, set[int], set[int]]]()
    index = _scored(experiment, seen)
    if index is None:
        return None
    for i in range(experiment.size):
        other, label = (alive(experiment, b) for b in (meeting.batch([i]), meeting.batch((), [i])))
        if not len(seen.shown) == len(other.shown) == len(label.shown):
            return None
        one, two = seen.shown[index].tensor, other.shown[index].tensor
        before, after = seen.of_loss([one])[0], label.of_loss([label.shown[index].tensor])[0]
        if before is not None and after is not None:
            found.append((i, _rows(one.detach(), two.detach()), _rows(before, after)))
    apart = [each for each in found if _is_apart(*each, experiment.size)]
    if len(apart) < LEAST:
        return None
    sample, read, scored = apart[0]
    rows = min(read - scored), min(scored - read)
    return Mixed(sample, *rows, tuple(each[0] for each in apart))


def _is_apart(sample: int, read: set[int], scored: set[int], size: int) -> bool:
    """Whether both hold its own row, few others, and each one that the other does not."""
    few = max(len(read), len(scored)) <= max(2, size // 2)
    return few and sample in read & scored and bool(read - scored) and bool(scored - read)


def _scored(experiment: Experiment, seen: Alive) -> int | None:
    """The last output with a row a sample that the loss depends on."""
    n = experiment.size
    for index in reversed(range(len(seen.shown))):
        each = seen.shown[index]
        fits = each.kind is Kind.OUTPUT and each.tensor.ndim > 1 and len(each.tensor) == n
        if fits and seen.of_loss([each.tensor])[0] is not None:
            return index
    return None


def _rows(one: Tensor, two: Tensor) -> set[int]:
    moved = (one - two).abs().flatten(1).amax(1) > SMALL * one.abs().max()
    return set(torch.nonzero(moved).flatten().tolist())
