"""Batches and schedules that stand at a step which is not the first."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from itertools import islice

from torch.optim.lr_scheduler import LRScheduler

from probes.subject import Batch, length_of


def again_and_again(batches: Iterable[Batch]) -> Iterator[tuple[int, Batch]]:
    """Index and batch, pass after pass; ends with a pass that has none."""
    index = 0
    while index >= 0:
        index = -1
        for index, batch in enumerate(batches):
            yield index, batch


def from_batch(batches: Iterable[Batch], first: int) -> Iterator[tuple[int, Batch]]:
    """Index and batch, pass after pass, from where so many steps from the start would stand."""
    skipped = first % (length_of(batches) or first + 1)
    return islice(again_and_again(batches), skipped, None)


def schedule_at(schedule: LRScheduler | None, step: int) -> None:
    """The schedule, which was just made, stands where it does after so many steps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the optimizer took no step before
        for _ in range(step if schedule is not None else 0):
            schedule.step()  # type: ignore[union-attr]
