"""A short training, which is stretched over the steps of a diagnosis."""

from __future__ import annotations

import math
from typing import Any

from probes.stepping.schedules import undone, went_on

FEWEST = 1000  # steps over which a shorter training is stretched, in epochs and schedules
SPENT = 0.01  # of the largest rate; a schedule that is below has nothing left to give


def longer_by(schedule: Any, steps: int) -> int:
    """How many times longer the schedule of so long a training is to last.

    Once, where next to nothing is left of it before half of that: it is not made for it.
    """
    spent, _ = spent_after(schedule, steps)
    fits = spent is None or 2 * spent >= steps
    return max(1, math.ceil(FEWEST / steps)) if fits else 1


def spent_after(schedule: Any, steps: int) -> tuple[int | None, bool]:
    """After how many of its steps next to nothing is left of the rate, or it ends by raising."""
    groups, top = schedule.optimizer.param_groups, 0.0
    with undone(schedule):
        for step in range(steps + 1):
            rate = max(float(group.get("lr", 1.0)) for group in groups)
            top = max(top, rate)
            if top > 0 and rate <= SPENT * top:
                return step, False
            if not went_on(schedule):
                return step + 1, True
    return None, False
